"""How we speak to an S3 server: every option of boto3 and s3transfer that matters, in one place."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from s3transfer.manager import TransferConfig, TransferManager

from storage.backends.base import without_secrets
from storage.errors import InvalidInput

PART = 16 * 2**20  # bytes: what is larger goes up in parts of this size


class S3Options(BaseSettings):
    """How to speak to the server; read from GAZEFLOW_S3_<NAME>.

    Endpoint, region, credentials and profile are boto3's own: AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_PROFILE, …
    """

    model_config = SettingsConfigDict(env_prefix="GAZEFLOW_S3_", frozen=True)

    connections: int = Field(32, ge=1, description="connections kept open")
    connect_seconds: float = Field(5, gt=0, description="longest wait for a connection")
    read_seconds: float = Field(60, gt=0, description="longest silence within an answer")
    attempts: int = Field(8, ge=1, description="requests made for one call, the first included")
    max_bandwidth: int | None = Field(None, gt=0, description="bytes per second of this process, up and down")


def options_from_environment() -> S3Options:
    """Raises InvalidInput for a GAZEFLOW_S3_<NAME> that is out of its range."""
    try:
        return S3Options()
    except ValidationError as error:
        wrong = "; ".join(f"GAZEFLOW_S3_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"{wrong}; nothing was opened") from None


def connect(options: S3Options) -> TransferManager:
    """A client within its manager of uploads. Raises InvalidInput when the environment's settings make no sense."""
    try:
        session = boto3.session.Session()
        client = session.client("s3", config=_config(options, "auto"))
        if not str(urlsplit(client.meta.endpoint_url).hostname).endswith((".amazonaws.com", ".amazonaws.com.cn")):
            client = session.client("s3", config=_config(options, "path"))  # few others have a host for each bucket
    except (BotoCoreError, ValueError) as error:
        raise InvalidInput(
            f"no connection to S3 can be set up: {without_secrets(str(error))}; check AWS_ENDPOINT_URL_S3, AWS_REGION "
            "and AWS_PROFILE"
        ) from error
    client.meta.events.register("before-parse.s3", _refuse_cut_heads)
    config = TransferConfig(
        multipart_threshold=PART, multipart_chunksize=PART, max_request_concurrency=8, max_in_memory_upload_chunks=4
    )
    return TransferManager(client, config)


def _config(options: S3Options, addressing: str) -> Config:
    return Config(
        connect_timeout=options.connect_seconds,
        read_timeout=options.read_seconds,
        max_pool_connections=options.connections,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": addressing, "payload_signing_enabled": True},
    )


def _refuse_cut_heads(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
    """Have boto3 repeat a request whose answer's head was cut: Python's http.client takes such a head for a whole one.

    Unseen, an object would look empty and a listing bare.
    """
    code, head = response_dict["status_code"], {name.lower() for name in response_dict["headers"]}
    if operation_model.name in ("GetObject", "HeadObject"):
        needed = {"content-length", "etag", "last-modified"} | ({"content-range"} if code == 206 else set())
        whole = needed <= head
    else:
        whole = code == 204 or bool({"content-length", "transfer-encoding"} & head)
    if code < 300 and not whole:
        response_dict.update(status_code=500, body=b"")  # as botocore itself does with errors that come as a 200
