"""What the cluster is asked to make, and what the site and a step may ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawbar.backend import Attempt
from drawbar.errors import SettingsError
from drawbar.model import JobSpec, Mount, Resources, WorkspaceNeed
from drawbar_kubernetes import manifest, pods
from drawbar_kubernetes.backend import KubernetesBackend
from drawbar_kubernetes.options import KubernetesHints, KubernetesOptions, wanted

VERSIONS = ("1.26", "1.28", "1.31", "1.34", "1.36")
VOLUME = {"path": "/data", "claim": "data"}
FULL = {
    "image_pull_secrets": ["registry"],
    "image_pull_policy": "Always",
    "node_selector": {"disk": "ssd"},
    "tolerations": [{"key": "physics", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
            ]
        }
    },
    "priority_class": "low",
    "queue": "physics",
    "service_account": "jobs",
    "user": 1234,
    "group": 2345,
    "memory_limit": "1Gi",
    "cpu_limit": "4",
    "active_deadline_s": 7200,
    "labels": {"team": "z"},
    "annotations": {"note": "a b"},
    "pod_template": {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "runtimeClassName": "gvisor",
            "containers": [
                {"name": "job", "env": [{"name": "SITE", "value": "1"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
            "tolerations": [{"operator": "Exists"}],
        },
    },
    "volumes": [
        VOLUME,
        {
            "path": "/cvmfs",
            "source": {"csi": {"driver": "cvmfs.csi.cern.ch"}},
            "read_only": True,
            "everywhere": True,
        },
        {"path": "/data/nfs", "nfs": "server:/export", "sub_path": "physics"},
    ],
}


def options(**values):
    return KubernetesOptions.parse({"volumes": [VOLUME], **values}, where="test")


def attempt(number=1, workspace="/data/runs/a.1/workspace", need=WorkspaceNeed.SHARED, **fields):
    values = {
        "workspace": need,
        "argv": ("true",),
        "directory": workspace,
        "canonical": None,
        "image": "busybox:1",
        **fields,
    }
    return Attempt(
        tag=f"db-{number:032x}",
        run="a.1",
        number=1,
        record=f"/data/runs/a.1/attempts/{number}",
        workspace=workspace,
        spec=JobSpec(identity=str(number), name="name", step="step", **values),
    )


def job(*attempts, size=1, indexed=False, **values):
    return manifest.job(attempts or [attempt()], options(**values), name="db-1", size=size, indexed=indexed)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, FULL], ids=["least", "full"])
@pytest.mark.parametrize("kind", ["single", "pack", "indexed"])
def test_manifests_are_valid_in_many_versions(version, values, kind):
    validator = pytest.importorskip("kubernetes_validate")
    resources = Resources(cpus=0.5, memory_mib=100, gpus=1, disk_mib=10, walltime_s=60)
    attempts = [attempt(number, resources=resources) for number in range(1 if kind == "single" else 4)]
    made = job(*attempts, size=2 if kind == "indexed" else len(attempts), indexed=kind == "indexed", **values)
    validator.validate(made, version, strict=True)


def test_nothing_is_privileged():
    """What Pod Security calls restricted, when jobs run as somebody."""
    pod = job(**FULL)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_a_job_is_never_repeated_by_the_cluster():
    made = job()
    assert made["spec"]["backoffLimit"] == 0
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_a_job_sees_its_part_of_a_volume():
    pod = job(attempt(workspace="/data/nfs/w"), **FULL)["spec"]["template"]["spec"]
    mounts = {each["mountPath"]: each for each in pod["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    workspace = mounts["/data/nfs/w"]
    assert workspace["subPath"] == "physics/w"
    assert volumes[workspace["name"]]["nfs"] == {"server": "server", "path": "/export"}
    record = mounts["/data/runs/a.1/attempts/1"]
    assert record["subPath"] == "runs/a.1/attempts/1"
    assert volumes[record["name"]]["persistentVolumeClaim"] == {"claimName": "data"}
    assert mounts["/cvmfs"] == {"name": mounts["/cvmfs"]["name"], "mountPath": "/cvmfs", "readOnly": True}


def test_declared_workspaces_are_read_only():
    spec = {"need": WorkspaceNeed.DECLARED, "collection_root": "/data/runs/a.1/jobs/1"}
    mounts = job(attempt(**spec))["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {each["mountPath"]: each.get("readOnly", False) for each in mounts} == {
        "/data/runs/a.1/workspace": True,
        "/data/runs/a.1/jobs/1": False,
        "/data/runs/a.1/attempts/1": False,
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"image": None}, "no image"),
        ({"workspace": "/elsewhere/w"}, "none of the `volumes`"),
        ({"workspace": "/data/a:b"}, "':'"),
        ({"environment": {"a-b": "1"}}, "'a-b'"),
        ({"mounts": (Mount(source="/etc", target="/data/x"),)}, "outside of the run's directories"),
        ({"stdout": "/elsewhere/out"}, "not among the directories"),
        ({"hints": {"kubernetes": {"kubernetes_uid": 5}}}, "kubernetes_uid"),
    ],
)
def test_what_no_pod_can_have_is_refused(changes, word):
    assert word in manifest.refusal(attempt(**changes), options())


def test_without_volumes_nothing_runs():
    backend = KubernetesBackend(KubernetesOptions())
    assert "volumes" in backend.refuses(attempt().spec)
    assert "volumes" in manifest.refusal(attempt(), KubernetesOptions())


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"restartPolicy": "Always"}, "restartPolicy"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volumes"),
        ({"containers": [{"name": "job", "command": ["x"]}]}, "command"),
        ({"containers": [{"name": "job", "securityContext": {"privileged": True}}]}, "privileged"),
        (
            {"initContainers": [{"name": "i", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
            "gain",
        ),
        ({"containers": [{"image": "x"}]}, "name"),
        ({"containers": [{"name": "x", "ports": [{"hostPort": 80}]}]}, "ports"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
        ({"containers": "x"}, "list of tables"),
    ],
)
def test_what_a_template_may_not_say(spec, word):
    with pytest.raises(SettingsError, match=word):
        options(pod_template={"spec": spec})


@pytest.mark.parametrize(
    ("volume", "word"),
    [
        ({"path": "/a"}, "name one of"),
        ({"path": "a", "claim": "c"}, "absolute"),
        ({"path": "/a/../b", "claim": "c"}, "shortest"),
        ({"path": "/a", "source": {"hostPath": {"path": "/"}}}, "host_path"),
        ({"path": "/a", "nfs": "server"}, "server:/path"),
        ({"path": "/a", "claim": "c", "sub_path": "../x"}, "sub_path"),
        ({"path": "/a", "clame": "c"}, "unknown field"),
    ],
)
def test_what_a_volume_may_not_be(volume, word):
    with pytest.raises(SettingsError, match=word):
        options(volumes=[volume])


def test_reanas_keys_are_understood():
    hints = {
        "kubernetes_memory_limit": "8Gi",
        "kubernetes_memory_request": "256Mi",
        "kubernetes_cpu_request": "500m",
        "kubernetes_cpu_limit": "2",
        "kubernetes_uid": 1000,
        "kubernetes_job_timeout": 60,
    }
    resources = wanted(KubernetesHints.parse(hints, where="step"), options(), Resources())
    assert resources == Resources(cpus=0.5, memory_mib=256, memory_limit_mib=8192, walltime_s=60)
    made = job(attempt(resources=resources, hints={"kubernetes": hints}))["spec"]["template"]["spec"]
    assert made["securityContext"]["runAsUser"] == 1000
    assert made["containers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "256Mi"},
        "limits": {"cpu": "2000m", "memory": "8192Mi"},
    }


@pytest.mark.parametrize(
    "hints",
    [
        {"kubernetes_memory_limit": "8 gigabytes"},
        {"kubernetes_memory_limit": "0"},
        {"kubernetes_cpu_request": "-1"},
        {"kubernetes_uid": 99},
        {"kubernetes_uid": "root"},
        {"kubernetes_job_timeout": 0},
        {"kubernetes_pack": "many"},
    ],
)
def test_hints_that_make_no_sense_are_refused(hints):
    (name,) = hints
    with pytest.raises(ValueError, match=name):
        wanted(KubernetesHints.parse(hints, where="step"), options(), Resources())


def test_what_a_server_left_out_is_found():
    sent = {"spec": {"suspend": True, "a": [{"b": 1, "c": {"d": 2}}], "empty": []}, "kind": "Job"}
    kept = {"spec": {"a": [{"b": 1, "c": {}, "default": 3}]}, "kind": "Job"}
    assert list(manifest.dropped(sent, kept)) == ["spec.suspend", "spec.a[0].c.d"]


def test_commands_are_not_expanded():
    """Kubernetes would replace `$(NAME)` in a command."""
    command = job()["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "$" not in "".join(command).replace("$$", "")


def test_an_entry_point_is_left_out_unless_the_job_wants_it():
    containers = [
        job(attempt(entry_point=wanted))["spec"]["template"]["spec"]["containers"][0]
        for wanted in (False, True)
    ]
    assert [each.keys() & {"command", "args"} for each in containers] == [{"command"}, {"args"}]
    assert containers[0]["command"] == containers[1]["args"]
    assert len({manifest.alike(attempt(entry_point=wanted)) for wanted in (False, True)}) == 2


def test_names_fit_into_those_of_pods():
    tag = "db-" + "0" * 32
    for tags in ([tag], ["Not A Name"], ["x" * 100], [tag, "db-1"], ["db-1", tag]):
        name = manifest.name_of(tags)
        assert manifest.name_of(tags) == name
        assert len(f"{name}-99999-abcde") <= 63
        assert name == name.lower()
    assert manifest.name_of([tag]) == tag
    assert manifest.name_of([tag, "db-1"]) != manifest.name_of(["db-1", tag])


def test_a_job_says_what_runs_in_it():
    attempts = [attempt(number) for number in range(5)]
    made = job(*attempts, size=2, indexed=True)
    assert list(manifest.parts_of(made).values()) == [0, 0, 1, 1, 2]
    assert manifest.parts_of(made["spec"]["template"]) == manifest.parts_of(made)
    assert manifest.runs(made, attempts[1:])
    assert not manifest.runs(made, [attempt(9)])
    foreign = replace(attempts[0], record="/data/other/a.1/attempts/0")
    assert not manifest.runs(made, [foreign])
    assert not manifest.runs({"metadata": {"name": "db-1"}}, attempts)


POD = {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}


@pytest.mark.parametrize(
    ("status", "metadata", "reason"),
    [
        ({"reason": "Evicted", "message": "low on memory"}, {}, "evicted"),
        ({"reason": "NodeLost"}, {}, "node-lost"),
        ({"reason": "Terminated", "message": "node shutdown"}, {}, "node-lost"),
        ({"reason": "OutOfcpu"}, {}, "evicted"),
        ({"reason": "UnexpectedAdmissionError"}, {}, "evicted"),
        ({"reason": "DeadlineExceeded"}, {}, "timeout"),
        (
            {
                "reason": "DeadlineExceeded",
                "message": "Pod was active on the node longer than the specified deadline",
                "ended": {"exitCode": 137, "reason": "Error"},
            },
            {},
            "timeout",
        ),
        ({"reason": "Preempting", "message": "Preempted in order to admit critical pod"}, {}, "evicted"),
        (
            {
                "reason": "NodeLost",
                "message": "Node n which was running pod p is unresponsive",
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "False"}],
            },
            {"deletionTimestamp": "2030-01-01T00:00:00Z"},
            "node-lost",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "DeletionByTaintManager",
                        "message": "Taint manager: deleting due to NoExecute taint",
                    }
                ]
            },
            {"deletionTimestamp": "2030-01-01T00:00:00Z"},
            "evicted",
        ),
        (
            {
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
                ]
            },
            {},
            "evicted",
        ),
        ({}, {"deletionTimestamp": "2030-01-01T00:00:00Z"}, "evicted"),
        ({"ended": {"exitCode": 137, "reason": "OOMKilled"}}, {}, "out-of-memory"),
        ({"ended": {"exitCode": 128, "reason": "StartError", "message": "no /bin/sh"}}, {}, "image"),
        ({"ended": {"exitCode": 1, "reason": "Error"}}, {}, None),
    ],
)
def test_what_a_pod_says_of_its_end(status, metadata, reason):
    status = dict(status)
    ended = status.pop("ended", None)
    sidecar = {"name": "proxy", "state": {"running": {}}}
    containers = [sidecar, {"name": "job", "state": {"terminated": ended}}] if ended else []
    pod = {**POD, "metadata": {"name": "p", **metadata}}
    pod["status"] = {"phase": "Failed", "containerStatuses": containers, **status}
    verdict = pods.read(pod).verdict()
    assert (verdict[0].value if verdict else None) == reason


def test_a_side_container_does_not_keep_a_job_from_ending():
    ended = {"name": "job", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    status = {"phase": "Running", "containerStatuses": [{"name": "proxy", "state": {"running": {}}}, ended]}
    assert pods.read({**POD, "status": status}).dead


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("CreateContainerConfigError", "rejected"),
        ("CreateContainerError", "rejected"),
        ("ErrImagePull", "image"),
        ("InvalidImageName", "image"),
        ("ContainerCreating", None),
    ],
)
def test_what_a_pod_waits_for(reason, expected):
    waiting = {"name": "job", "state": {"waiting": {"reason": reason, "message": "why"}}}
    pod = pods.read({**POD, "status": {"phase": "Pending", "containerStatuses": [waiting]}})
    assert (pod.stuck.value if pod.stuck else None) == expected
    assert (pod.state, pod.message) == (reason, f"{reason}: why")


def test_a_node_that_is_lost_leaves_a_pod_that_is_not_dead():
    """Its job may run on, so that only time, or the pod's deletion, tells."""
    status = {
        "phase": "Running",
        "reason": "NodeLost",
        "conditions": [{"type": "Ready", "status": "Unknown"}],
    }
    pod = pods.read({**POD, "status": status})
    assert (pod.unready, pod.dead) == (True, False)
