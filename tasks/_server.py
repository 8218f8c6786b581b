"""Prefect's server as a child that ends with its parent, also when that is killed with -9.

Prefect's own temporary server outlives a killed run; this one watches its standard input.
"""

from __future__ import annotations

import os
import sys
import threading


def main() -> None:
    """Serve Prefect's API and pages on a loopback port until standard input closes."""
    os.environ |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "ERROR")
    os.environ.pop("PREFECT_API_URL", None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
