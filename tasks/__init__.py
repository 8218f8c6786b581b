"""Stages, one public file each; files that begin with _ are the machinery that runs them."""
