"""The whole DAG as one Prefect flow."""

from prefect import flow

from tasks._run import PipelineOptions, run_pipeline


@flow(name="gazeflow", flow_run_name="{options.config}", persist_result=False)
def pipeline(options: PipelineOptions) -> dict[str, str]:
    """Make every wanted node of a config, or find it made; returns node -> ref."""
    return run_pipeline(options)
