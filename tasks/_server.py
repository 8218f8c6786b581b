"""Prefect's server as a child that ends with its parent, also when that is killed with -9.

Prefect's own temporary server outlives a killed run; this one watches its standard input.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def main() -> None:
    """Serve Prefect's API and pages on a loopback port until standard input closes."""
    port = int(sys.argv[1])
    os.environ |= _settings(port)
    os.environ.pop("PREFECT_API_URL", None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


def _settings(port: int) -> dict[str, str]:
    """A server with pages, without the services that a single run has no use for."""
    idle = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "DB_VACUUM", "TRIGGERS")
    return {
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_STATIC_DIRECTORY": str(Path(os.environ["PREFECT_HOME"]) / "pages"),
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    } | {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in idle}


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
