"""What the refusals of an S3 server and the faults of the network before it mean to us."""

from __future__ import annotations

from http.client import HTTPException
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from storage.backends.base import without_secrets
from storage.errors import GazeflowError, InvalidInput, NotFound, Transient

# Refusals, faults, and (the last three) answers that were damaged on their way, which botocore does not foresee.
FAILURES = (ClientError, BotoCoreError, HTTPError, HTTPException, OSError, ResponseParserError, ValueError, KeyError)

_NETWORK = (ConnectionError, HTTPClientError, IncompleteReadError)  # the rest of BotoCoreError is of this machine
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_AGAIN = {"RequestTimeout", "SlowDown", "BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload"}


def status(error: BaseException | None) -> int:
    """The HTTP status of a server's refusal, also when it is the cause of an error of ours; 0 when there is none."""
    if isinstance(error, GazeflowError):
        return status(error.__cause__)
    return int(_metadata(error).get("HTTPStatusCode", 0))


def repeated(error: GazeflowError) -> bool:
    """Whether boto3 had asked before, so that an earlier request may have done its work unseen."""
    return int(_metadata(error.__cause__).get("RetryAttempts", 1)) > 0


def meaning(error: Exception, where: str, endpoint: str) -> GazeflowError:
    """One of FAILURES as an error of ours; `where` is the object's URL."""
    endpoint = without_secrets(endpoint)
    if isinstance(error, ClientError):
        return _of_refusal(error, where, endpoint)
    if isinstance(error, EndpointConnectionError):
        return Transient(f"{where}: nobody answers at {endpoint}; run again when it is up, or mend AWS_ENDPOINT_URL_S3")
    told = f"{type(error).__name__}: {without_secrets(str(error))[:300]}"
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return InvalidInput(f"{where}: {endpoint} has a certificate this machine does not trust; set AWS_CA_BUNDLE")
    if isinstance(error, BotoCoreError) and not isinstance(error, _NETWORK):
        return InvalidInput(
            f"{where}: nothing was asked of {endpoint} ({told}); check AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and AWS_REGION"
        )
    return Transient(f"{where}: no whole answer from {endpoint} ({told}); run again when the server is well")


def _of_refusal(error: ClientError, where: str, endpoint: str) -> GazeflowError:
    code, number = str(error.response.get("Error", {}).get("Code", "")), status(error)
    if code == "NoSuchBucket":
        return NotFound(f"{where}: {endpoint} has no such bucket; make it first")
    if code in _AGAIN or number in (408, 409, 429) or (number >= 500 and number != 501):
        return Transient(f"{where}: {endpoint} answered {number} {code}; run again when the server is well")
    if number == 404:
        return NotFound(f"{where}: no such object in the store")
    if number == 412:
        return Transient(f"{where}: it was changed meanwhile; run again")
    if number == 501:
        return InvalidInput(f"{where}: {endpoint} lacks a needed request ({code}); see `gazeflow doctor`")
    if code == "RequestTimeTooSkewed":
        return InvalidInput(f"{where}: refused, for this machine's clock differs from the server's; set the clock")
    if number in (401, 403) or code in _REFUSED:
        return InvalidInput(
            f"{where}: refused by {endpoint} ({code or number}); check the credentials and the policy "
            "(docker/ has policies for readers and writers)"
        )
    return GazeflowError(f"{where}: {endpoint} answered {number} {code}: {str(error)[:300]}")


def _metadata(error: BaseException | None) -> dict[str, Any]:
    return error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
