"""What a test knows of an S3 server, whichever it is."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ACCESS_KEY = "testaccesskey"
SECRET_KEY = "testsecretkey0123456789"

_numbers = itertools.count(1)


class Unavailable(Exception):
    """Why there is no such server here."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; `env` is what a process needs to speak to it."""

    name: str
    endpoint: str  # http://127.0.0.1:PORT or https://…
    version: str
    ca_bundle: str | None = None  # the file of its certificate, for https

    @property
    def env(self) -> dict[str, str]:
        env = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }
        return env | ({"AWS_CA_BUNDLE": self.ca_bundle} if self.ca_bundle else {})

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.endpoint.rpartition("//")[2].partition(":")
        return host, int(port)

    def client(self) -> Any:
        """A plain boto3 client, with nothing of gazeflow's."""
        return _client(self)

    def bucket(self) -> str:
        """Make a new bucket; returns its name."""
        name = f"bucket-{next(_numbers):05d}"
        self.client().create_bucket(Bucket=name)
        return name


@functools.cache
def _client(server: S3Server) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        verify=server.ca_bundle,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at the moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def die_with_parent() -> None:
    """For a new process: end with the one that started it, also when that is killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto's fake of S3 in a thread of this process. It checks neither signatures nor checksums."""
    import moto
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield S3Server("moto", "http://{}:{}".format(*server.get_host_and_port()), moto.__version__)
    finally:
        server.stop()
