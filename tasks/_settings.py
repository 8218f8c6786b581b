"""Where and how a run happens."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where and how a run happens; never part of a key. Also read from GAZEFLOW_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="GAZEFLOW_", extra="forbid", frozen=True)

    store: str = Field("file://./.gazeflow/store", description="where artifacts lie: file://PATH or s3://BUCKET/PREFIX")
    workers: int = Field(2, ge=1, description="nodes that run side by side")
    shards_per_task: int = Field(16, ge=1, description="shards in one Prefect task run")
    decoders: int = Field(2, ge=1, description="threads that decode images beside inference")
    retries: int = Field(2, ge=0, description="times a node is retried after a transient error")
    retry_seconds: float = Field(10, ge=0, description="pause before the first retry; doubles")
    timeout_hours: float = Field(72, gt=0, description="longest a node may take")
    max_failed_share: float = Field(0.001, ge=0, le=1, description="share of broken images a node accepts")
    checkpoint_seconds: float = Field(60, ge=0, description="training loses at most so much work")
