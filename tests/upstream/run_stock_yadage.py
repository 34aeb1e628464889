"""Runs a workflow with stock yadage, in a process of its own: `python run_stock_yadage.py ORDER`.

The order is a JSON file with the arguments of `steering_ctx`; the results of all steps, by scope,
stage and index, are written where it says.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

order = json.loads(Path(sys.argv[1]).read_text())

import jsonschema.validators  # noqa: E402

# Yadage fills in defaults with an extended validator. Newer jsonschema forgets that class at every $ref.
jsonschema.validators.validator_for = lambda schema, default=None: default or jsonschema.Draft4Validator

from yadage.steering_api import steering_ctx  # noqa: E402
from yadage.utils import setupbackend_fromstring  # noqa: E402

backend = setupbackend_fromstring(order.pop("backend"), {})
results = Path(order.pop("results"))
with steering_ctx(visualize=False, backend=backend, updateinterval=0.01, **order) as steering:
    pass
found = {}
for identifier in steering.workflow.dag.nodes:
    node = steering.workflow.dag.nodes[identifier]["nodeobj"]
    data = node.task.metadata
    key = f"{data['wflow_offset']}/{data['wflow_stage']}/{data['wflow_stage_node_idx']}"
    found[key] = node.result.json() if node.successful() else None
results.write_text(json.dumps(found))
