"""Analyses of the shapes that MadMiner and RECAST have, with small commands for their programs."""

from pathlib import Path

import yaml

PHYSICS_IMAGE = ("madminertool/madminer-workflow-ph", "0.5.2")
LEARNING_IMAGE = ("madminertool/madminer-workflow-ml", "0.4.2")
RECAST_IMAGES = [
    ("reanahub/reana-demo-atlas-recast-eventselection", "1.0"),
    ("reanahub/reana-demo-atlas-recast-statanalysis", "1.0"),
]


def encapsulated(image, **more):
    """An environment with an image."""
    name, tag = image
    return {"environment_type": "docker-encapsulated", "image": name, "imagetag": tag, **more}


def step(cmd, publisher, environment):
    process = {"process_type": "string-interpolated-cmd", "cmd": f"echo {{identity}} >> {{ledger}}; {cmd}"}
    return {"process": process, "environment": environment, "publisher": publisher}


def glob(key, pattern="*.out"):
    return {"publisher_type": "fromglob-pub", "globexpression": pattern, "outputkey": key}


def stage(name, needs, body, scatter=(), **parameters):
    common = {"ledger": {"step": "init", "output": "ledger"}, "identity": name, "workdir": "{workdir}"}
    scheduler = {
        "scheduler_type": "multistep-stage" if scatter else "singlestep-stage",
        "parameters": {**common, **parameters},
        **({"scatter": {"method": "zip", "parameters": list(scatter)}} if scatter else {}),
        **({"workflow": body} if "stages" in body or "$ref" in body else {"step": body}),
    }
    if "workflow" in scheduler:
        del scheduler["parameters"]["workdir"], scheduler["parameters"]["identity"]
    return {"name": name, "dependencies": ["init", *needs], "scheduler": scheduler}


def select(stages, output, **more):
    return {"stages": stages, "output": output, **more}


def physics():
    """Events are generated, showered and put through a detector in parallel, and combined."""
    image = encapsulated(PHYSICS_IMAGE)
    make = "for n in $(seq {jobs}); do sleep {pause}; echo $n > {workdir}/script_$n.out; done"
    pause = select("init", "pause", unwrap=True)
    return [
        stage(
            "generate",
            [],
            step(make, glob("script_files"), image),
            jobs=select("init", "jobs", unwrap=True),
            pause=pause,
        ),
        stage(
            "pythia",
            ["generate"],
            step("sleep {pause}; sed s/^/pythia/ {script} > {workdir}/events.out", glob("events"), image),
            ["script"],
            script=select("generate", "script_files", unwrap=True),
            pause=pause,
        ),
        stage(
            "delphes",
            ["pythia"],
            step("sleep {pause}; sed s/^/delphes-/ {events} > {workdir}/hits.out", glob("hits"), image),
            ["events"],
            events=select("pythia", "events", unwrap=True),
            pause=pause,
        ),
        stage(
            "combine",
            ["delphes"],
            step("cat {hits} > {workdir}/combined.out", glob("data"), image),
            hits=select("delphes", "hits", flatten=True),
        ),
    ]


def learning():
    """Samples are drawn, a network is trained on each, and their answers are plotted."""
    image = encapsulated(LEARNING_IMAGE)
    return [
        stage(
            "sampling",
            [],
            step("for n in 1 2; do cat {data} > {workdir}/train_$n.out; done", glob("train"), image),
            data=select("init", "data", unwrap=True, flatten=True),
        ),
        stage(
            "training",
            ["sampling"],
            step("sleep {pause}; sed s/^/trained-/ {train} > {workdir}/model.out", glob("model"), image),
            ["train"],
            train=select("sampling", "train", unwrap=True),
            pause=select("init", "pause", unwrap=True),
        ),
        stage(
            "plotting",
            ["training"],
            step("cat {models} > {workdir}/plot.out", glob("plot"), image),
            models=select("training", "model", flatten=True),
        ),
    ]


COMBINED = "".join(f"delphes-pythia{n}\n" for n in range(1, 5))
PLOT = COMBINED.replace("delphes", "trained-delphes") * 2
JOBS = ["combine", *["delphes"] * 4, "generate", "plotting", *["pythia"] * 4, "sampling", *["training"] * 2]
"""The stages of the jobs of MadMiner, as they append them to its ledger."""


def madminer(place: Path, ledger: str) -> Path:
    """Two sub-workflows in files of their own, the second on what `workflow_ph[*].combine` yields."""
    pause = {"step": "init", "output": "pause"}
    _write(place / "workflow/ph.yml", {"stages": physics()})
    _write(place / "workflow/ml.yml", {"stages": learning()})
    data = select("workflow_ph[*].combine", "data", flatten=True)
    jobs = {"step": "init", "output": "jobs"}
    stages = [
        stage("workflow_ph", [], {"$ref": "workflow/ph.yml"}, jobs=jobs, pause=pause),
        stage("workflow_ml", ["workflow_ph"], {"$ref": "workflow/ml.yml"}, data=data, pause=pause),
    ]
    _write(place / "workflow/main.yml", {"stages": stages})
    return _analysis(
        place,
        {"parameters": {"jobs": 4, "pause": 0, "ledger": ledger}},
        "workflow/main.yml",
        "workflow_ml/plotting/plot.out",
    )


SELECT = """\
set -o pipefail
# events of {did} at {xsec}
mkdir -p {submitDir}
sed 's/^/selected {did} /' {sample} > {selected}
"""
FIT = """\
grep -c selected {data} | tr -d ' ' > {limit}
cat {data} >> {limit}
"""


def recast(place: Path) -> Path:
    """An event selection and a fit: scripts for bash in two images, results by interpolated publishers."""
    resources = [{"kubernetes_uid": 500}, {"kubernetes_memory_limit": "256Mi"}]
    steps = {
        name: {
            "process": {
                "process_type": "interpolated-script-cmd",
                "interpreter": "bash",
                "script": script,
            },
            "environment": encapsulated(image, resources=resources),
            "publisher": {"publisher_type": "interpolated-pub", "publish": {output: f"{{{output}}}"}},
        }
        for name, script, image, output in zip(
            ("eventselection", "statanalysis"),
            (SELECT, FIT),
            RECAST_IMAGES,
            ("selected", "limit"),
            strict=True,
        )
    }
    init = {name: {"step": "init", "output": name} for name in ("did", "xsec", "sample")}
    submit = "{workdir}/submitDir"
    stages = [
        {
            "name": "eventselection",
            "dependencies": ["init"],
            "scheduler": {
                "scheduler_type": "singlestep-stage",
                "parameters": {**init, "submitDir": submit, "selected": f"{submit}/hist-sample.root"},
                "step": {"$ref": "steps.yml#/eventselection"},
            },
        },
        {
            "name": "statanalysis",
            "dependencies": ["eventselection"],
            "scheduler": {
                "scheduler_type": "singlestep-stage",
                "parameters": {
                    "data": {"stages": "eventselection", "output": "selected", "unwrap": True},
                    "limit": "{workdir}/limit.txt",
                },
                "step": {"$ref": "steps.yml#/statanalysis"},
            },
        },
    ]
    _write(place / "specs/steps.yml", steps)
    _write(place / "specs/workflow.yml", {"stages": stages})
    (place / "data").mkdir()
    (place / "data/recast_sample.txt").write_text("signal\n")
    inputs = {
        "directories": ["data"],
        "parameters": {"did": 404958, "xsec": 0.00122, "sample": "recast_sample.txt"},
        "options": {"toplevel": "specs", "initdir": "data"},
    }
    return _analysis(place, inputs, "workflow.yml", "statanalysis/limit.txt")


LIMIT = "1\nselected 404958 signal\n"


def _analysis(place, inputs, file, output):
    workflow = {"type": "yadage", "file": file}
    analysis = {"version": "0.9.0", "inputs": inputs, "workflow": workflow, "outputs": {"files": [output]}}
    _write(place / "reana.yaml", analysis)
    return place


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False))
