"""A single node as a Prefect flow, for reruns from a deployment's form."""

from prefect import flow

from tasks._run import NodeOptions, run_node


@flow(name="gazeflow-node", flow_run_name="{options.node}", persist_result=False)
def node(options: NodeOptions) -> dict[str, str]:
    """Make one node again, then what depends on it unless `only` is set; returns node -> ref."""
    return run_node(options)
