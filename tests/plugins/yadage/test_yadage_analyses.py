"""Whole analyses of the shapes that MadMiner and RECAST have, with stubs for programs; kills and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

IMAGE = {
    "environment_type": "docker-encapsulated",
    "image": "madminertool/madminer-workflow-ph",
    "imagetag": "0.5.2",
}


def step(cmd, publisher, environment=IMAGE):
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
        **({"workflow": body} if "stages" in body else {"step": body}),
    }
    if "stages" in body:
        del scheduler["parameters"]["workdir"], scheduler["parameters"]["identity"]
    return {"name": name, "dependencies": ["init", *needs], "scheduler": scheduler}


def select(stages, output, **more):
    return {"stages": stages, "output": output, **more}


PHYSICS = {
    "stages": [
        stage(
            "generate",
            [],
            step(
                "for n in $(seq {jobs}); do sleep {pause}; echo $n > {workdir}/script_$n.out; done",
                glob("script_files"),
            ),
            jobs=select("init", "jobs", unwrap=True),
            pause=select("init", "pause", unwrap=True),
        ),
        stage(
            "pythia",
            ["generate"],
            step("sleep {pause}; sed s/^/pythia/ {script} > {workdir}/events.out", glob("events")),
            ["script"],
            script=select("generate", "script_files", unwrap=True),
            pause=select("init", "pause", unwrap=True),
        ),
        stage(
            "delphes",
            ["pythia"],
            step("sleep {pause}; sed s/^/delphes-/ {events} > {workdir}/hits.out", glob("hits")),
            ["events"],
            events=select("pythia", "events", unwrap=True),
            pause=select("init", "pause", unwrap=True),
        ),
        stage(
            "combine",
            ["delphes"],
            step("cat {hits} > {workdir}/combined.out", glob("data")),
            hits=select("delphes", "hits", flatten=True),
        ),
    ]
}
LEARNING = {
    "stages": [
        stage(
            "sampling",
            [],
            step("for n in 1 2; do cat {data} > {workdir}/train_$n.out; done", glob("train")),
            data=select("init", "data", unwrap=True, flatten=True),
        ),
        stage(
            "training",
            ["sampling"],
            step("sleep {pause}; sed s/^/trained-/ {train} > {workdir}/model.out", glob("model")),
            ["train"],
            train=select("sampling", "train", unwrap=True),
            pause=select("init", "pause", unwrap=True),
        ),
        stage(
            "plotting",
            ["training"],
            step("cat {models} > {workdir}/plot.out", glob("plot")),
            models=select("training", "model", flatten=True),
        ),
    ]
}
MADMINER = {
    "stages": [
        stage(
            "workflow_ph",
            [],
            PHYSICS,
            jobs={"step": "init", "output": "jobs"},
            pause={"step": "init", "output": "pause"},
        ),
        stage(
            "workflow_ml",
            ["workflow_ph"],
            LEARNING,
            data=select("workflow_ph[*].combine", "data", flatten=True),
            pause={"step": "init", "output": "pause"},
        ),
    ]
}
COMBINED = "".join(f"delphes-pythia{n}\n" for n in range(1, 5))
PLOT = COMBINED.replace("delphes", "trained-delphes") * 2
JOBS = ["combine", *["delphes"] * 4, "generate", "plotting", *["pythia"] * 4, "sampling", *["training"] * 2]


@pytest.fixture
def analysis(tmp_path):
    """A directory with an analysis of MadMiner's shape, and the ledger that its jobs append to."""
    place = tmp_path / "madminer"
    (place / "workflow").mkdir(parents=True)
    for name, flow in (("ph", PHYSICS), ("ml", LEARNING)):
        (place / f"workflow/{name}.yml").write_text(yaml.safe_dump(flow, sort_keys=False))
    stages = [dict(each) for each in MADMINER["stages"]]
    for each, name in zip(stages, ("ph", "ml"), strict=True):
        each["scheduler"] = {**each["scheduler"], "workflow": {"$ref": f"workflow/{name}.yml"}}
    (place / "workflow/main.yml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    parameters = {"jobs": 4, "pause": 0, "ledger": str(tmp_path / "ledger")}
    (place / "reana.yaml").write_text(
        yaml.safe_dump(
            {
                "version": "0.9.0",
                "inputs": {"parameters": parameters},
                "workflow": {"type": "yadage", "file": "workflow/main.yml"},
                "outputs": {"files": ["workflow_ml/plotting/plot.out"]},
            }
        )
    )
    return place


def drawbar(place, *arguments):
    return [sys.executable, "-m", "drawbar.cli", *arguments], {
        "env": {**os.environ, "DRAWBAR_HOME": str(place.parent / "home")},
        "cwd": place,
        "text": True,
    }


def call(place, *arguments):
    command, more = drawbar(place, *arguments)
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **more)


def ledger(place):
    path = place.parent / "ledger"
    return sorted(path.read_text().split()) if path.exists() else []


def test_a_workflow_of_the_shape_of_madminer(analysis):
    ran = call(analysis, "run", "--no-container", "--json")
    assert ran.returncode == 0, ran.stderr
    workspace = Path(json.loads(ran.stdout)["workspace"])
    assert (workspace / "workflow_ph/combine/combined.out").read_text() == COMBINED
    assert (workspace / "workflow_ml/plotting/plot.out").read_text() == PLOT
    assert ledger(analysis) == JOBS


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 3, 6, 9, 11, 13])
def test_a_killed_run_is_resumed_and_repeats_nothing_that_was_accepted(analysis, done):
    text = (analysis / "reana.yaml").read_text()
    (analysis / "reana.yaml").write_text(text.replace("pause: 0", "pause: 0.3"))
    command, more = drawbar(analysis, "run", "--no-container", "--name", "killed")
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    deadline = time.monotonic() + 60
    while len(ledger(analysis)) < done and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    resumed = call(analysis, "resume", "killed", "--json")
    assert resumed.returncode == 0, resumed.stderr
    workspace = Path(json.loads(resumed.stdout)["workspace"])
    assert (workspace / "workflow_ml/plotting/plot.out").read_text() == PLOT
    assert ledger(analysis) == JOBS


def test_a_workflow_of_the_shape_of_recast(flow, stage):
    """Two scripts in images, a result file by an interpolated publisher, a user id for Kubernetes."""

    def image(name):
        return {
            "environment_type": "docker-encapsulated",
            "image": f"reanahub/reana-demo-atlas-recast-{name}",
            "imagetag": "1.0",
            "resources": [{"kubernetes_uid": 500}, {"kubernetes_memory_limit": "256Mi"}],
        }

    def script(text):
        return {"process_type": "interpolated-script-cmd", "interpreter": "bash", "script": text}

    def publish(name):
        return {"publisher_type": "interpolated-pub", "publish": {name: f"{{{name}}}"}}

    (flow.workspace / "sample.txt").write_text("signal\n")
    selection = (
        "set -o pipefail\n# events of {did} at {xsec}\nsed 's/^/selected {did} /' {sample} > {selected}\n"
    )
    fit = "source /dev/null\nwc -l < {data} | tr -d ' ' > {limit}\n"
    init = {name: {"step": "init", "output": name} for name in ("did", "xsec", "sample")}
    found = flow.run(
        [
            stage(
                "eventselection",
                needs=["init"],
                process=script(selection),
                environment=image("eventselection"),
                publisher=publish("selected"),
                parameters={
                    **init,
                    "selected": "{workdir}/submitDir/hist-sample.root",
                    "out": "{workdir}/submitDir",
                },
            ),
        ],
        did=404958,
        xsec=0.00122,
        sample="sample.txt",
    )
    assert flow.failure is not None  # nobody made the directory
    found = flow.run(
        [
            stage(
                "eventselection",
                needs=["init"],
                process=script("mkdir -p {out}\n" + selection),
                environment=image("eventselection"),
                publisher=publish("selected"),
                parameters={
                    **init,
                    "selected": "{workdir}/submitDir/hist-sample.root",
                    "out": "{workdir}/submitDir",
                },
            ),
            stage(
                "statanalysis",
                needs=["eventselection"],
                process=script(fit),
                environment=image("statanalysis"),
                publisher=publish("limit"),
                parameters={
                    "data": {"step": "eventselection", "output": "selected"},
                    "limit": "{workdir}/limit.txt",
                },
            ),
        ],
        did=404958,
        xsec=0.00122,
        sample="sample.txt",
    )
    assert found["statanalysis/0"] == {"limit": "<work>/statanalysis/limit.txt"}
    assert flow.text("eventselection/submitDir/hist-sample.root") == "selected 404958 signal\n"
    assert flow.text("statanalysis/limit.txt") == "1\n"
    assert flow.spec("statanalysis/0").hints == {
        "memory": {"kubernetes_uid": 500, "kubernetes_memory_limit": "256Mi"}
    }
