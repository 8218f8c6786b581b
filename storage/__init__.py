"""Bytes: object stores, artifacts, manifests, shards, dataset formats. No torch, no Prefect."""
