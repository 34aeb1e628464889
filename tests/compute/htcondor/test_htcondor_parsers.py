"""What ads of HTCondor say, as recorded, and what steps may say to HTCondor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drawbar.model import JobSpec, JobState, Mount, Reason, Resources
from drawbar_htcondor import ads
from drawbar_htcondor.backend import HTCondorBackend
from drawbar_htcondor.options import FAIL, RELEASE, WAIT, seconds

VERSIONS = ("23.9.6", "25.14.1")
RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(params=VERSIONS)
def recorded(request):
    return json.loads((RECORDED / f"{request.param}.json").read_text())


def queued(recorded, hold=FAIL, release_s=60.0):
    return {each.batch: each for each in ads.queued(recorded["queue"], hold, release_s)}


def test_jobs_in_the_queue(recorded):
    seen = queued(recorded)
    assert (seen["idle"].state, seen["idle"].native_state) == (JobState.SUBMITTED, "idle")
    assert (seen["running"].state, seen["running"].host) == (JobState.RUNNING, "vm")
    assert seen["suspended"].native_state == "suspended"
    assert "no contact" in seen["disconnected"].message
    assert not any(seen[name].stuck for name in ("idle", "running", "suspended", "disconnected"))


def test_jobs_that_would_start_again(recorded):
    seen = queued(recorded)
    assert seen["evicted"].reason is Reason.EVICTED
    assert "vacate" in seen["evicted"].stuck
    assert seen["node-lost"].reason is Reason.NODE_LOST
    assert "disconnected too long" in seen["node-lost"].stuck


def test_a_job_that_never_starts_however_often_it_is_tried():
    ad = {"ProcId": 0, "JobStatus": 1, "NumJobStarts": 0, "NumShadowStarts": 10, "VacateReason": "no image"}
    (seen,) = ads.queued([ad], FAIL, 60)
    assert seen.reason is Reason.EVICTED
    assert "10 times to start it: no image" in seen.stuck
    (seen,) = ads.queued([{**ad, "NumShadowStarts": 9}], FAIL, 60)
    assert not seen.stuck


def test_a_job_that_no_machine_can_run_says_what_it_asks_for():
    ad = {"ProcId": 0, "JobStatus": 1, "LastRejMatchReason": "no match found ", "RequestMemory": 90000}
    (seen,) = ads.queued([{**ad, "RequestCpus": 2}], FAIL, 60)
    assert seen.message == "no match found for 2 cores, 90000 MB of memory"


def test_held_jobs_fail_with_their_reason(recorded):
    seen = queued(recorded)
    reasons = {name: each.reason for name, each in seen.items() if name.startswith("held")}
    assert reasons == {
        "held-by-user": Reason.HELD,
        "held-missing": Reason.HELD,
        "held-memory": Reason.OUT_OF_MEMORY,
        "held-duration": Reason.TIMEOUT,
        "held-execute-duration": Reason.TIMEOUT if seen["held-execute-duration"].stuck else None,
        "held-output": Reason.HELD,
        "held-input": Reason.HELD,
        "held-no-directory": Reason.HELD,
    }
    assert "being mended (by user dbtest)" in seen["held-by-user"].stuck
    assert "memory usage exceeded request_memory" in seen["held-memory"].stuck


def test_held_jobs_that_are_to_be_released(recorded):
    """Those that started are repeated as new attempts; HTCondor releases the others by itself."""
    early, late = queued(recorded, RELEASE, 1e6), queued(recorded, RELEASE, 1)
    assert early["held-memory"].reason is late["held-memory"].reason is Reason.OUT_OF_MEMORY
    assert early["held-by-user"].reason is Reason.HELD
    assert (early["held-missing"].stuck, late["held-missing"].reason) == ("", Reason.EVICTED)
    assert early["held-input"].stuck == late["held-input"].stuck == ""
    held = next(ad for ad in recorded["queue"] if ad["DrawbarBatch"] == "held-input")
    (again,) = ads.queued([{**held, "NumHolds": 4}], RELEASE, 1)
    assert again.reason is Reason.HELD


def test_held_jobs_that_are_waited_for(recorded):
    seen = queued(recorded, WAIT)
    assert not any(each.stuck for name, each in seen.items() if name.startswith("held"))
    assert "being mended" in seen["held-by-user"].message


def test_a_job_that_waits_for_its_input_is_not_held():
    (seen,) = ads.queued([{"ProcId": 0, "JobStatus": 5, "HoldReasonCode": 16}], FAIL, 60)
    assert not seen.stuck


def test_jobs_that_are_still_to_be_made(recorded):
    late = [each for each in ads.queued(recorded["queue"], FAIL, 60) if each.batch == "late"]
    assert [each.index for each in late] == list(range(21, 61))
    assert {each.state for each in late} == {JobState.SUBMITTED}
    assert late[0].native_id == "97.20"


def test_the_history(recorded):
    seen = {each.batch: each for each in ads.ended(recorded["history"])}
    assert (seen["completed"].exit_code, seen["completed"].reason) == (3, None)
    assert (seen["signal"].exit_code, seen["signal"].reason) == (None, Reason.KILLED)
    assert "signal 9" in seen["signal"].message
    assert (seen["removed-by-user"].state, seen["removed-by-user"].reason) == (
        JobState.CANCELLED,
        Reason.CANCELLED,
    )
    assert "condor_rm (by user dbtest)" in seen["removed-by-user"].message
    assert seen["removed-by-policy"].reason is Reason.TIMEOUT


def test_a_job_that_the_site_removed():
    why = "The system macro SYSTEM_PERIODIC_REMOVE expression 'true' evaluated to TRUE"
    (seen,) = ads.ended([{"ProcId": 0, "JobStatus": 3, "RemoveReason": why}])
    assert (seen.state, seen.reason, seen.message) == (JobState.FAILED, Reason.KILLED, why)


def test_an_ad_may_lack_everything():
    (seen,) = ads.queued([{"ProcId": 3, "ClusterId": 7}], FAIL, 60)
    assert (seen.native_id, seen.batch, seen.state) == ("7.3", "", JobState.RUNNING)
    assert list(ads.queued([{"ClusterId": 7}], FAIL, 60)) == []


# what is submitted


def backend(**options):
    return HTCondorBackend(HTCondorBackend.Options.parse(options, where="test"))


def job(hints=None, **fields):
    hints = {"htcondor": hints} if hints else {}
    return JobSpec(
        identity="a",
        name="a",
        step="a",
        argv=("true",),
        directory="/",
        canonical=None,
        hints=hints,
        **fields,
    )


def lines(one, spec):
    words = one.directives(spec)
    return dict(zip(words[::2], words[1::2], strict=True))


def test_resources():
    wanted = Resources(cpus=1.5, memory_mib=100, memory_limit_mib=200, disk_mib=3, gpus=2, walltime_s=100)
    assert lines(backend(grace_s=5), job(resources=wanted)) == {
        "request_cpus": "2",
        "request_memory": "200",
        "request_disk": "3072",
        "request_gpus": "2",
        "My.MaxRuntime": "165",
        "periodic_remove": "(JobStatus == 2 && time() - JobCurrentStartDate > 165)",
        "requirements": "(NumJobStarts =?= 0)",
    }


def test_reanas_keys_are_resources():
    one = backend()
    hints = one.Hints.parse(
        {
            "htcondor_max_runtime": "longlunch",
            "htcondor_request_cpus": "4",
            "htcondor_request_memory": "2 GB",
            "htcondor_request_disk": "2048",
            "htcondor_request_gpus": 1,
            "htcondor_accounting_group": "group_u_ATLAS.u_zp",
            "htcondor_requirements": 'OpSysAndVer == "AlmaLinux9"',
        },
        where="test",
    )
    assert one.resources(hints, Resources()) == Resources(
        cpus=4, memory_mib=2048, disk_mib=2, gpus=1, walltime_s=7200
    )
    told = lines(
        one,
        job(
            {
                "max_runtime": "longlunch",
                "accounting_group": "group_u_ATLAS.u_zp",
                "requirements": 'OpSysAndVer == "AlmaLinux9"',
            }
        ),
    )
    assert told["My.JobFlavour"] == '"longlunch"'
    assert told["accounting_group"] == "group_u_ATLAS.u_zp"
    assert told["requirements"] == '(NumJobStarts =?= 0) && (OpSysAndVer == "AlmaLinux9")'


def test_what_a_site_says_for_every_job():
    one = backend(
        requirements="HasCvmfs",
        accounting_group="group.a",
        max_runtime="espresso",
        attributes={"SendCredential": "true"},
        rank="Memory",
        lease_s=600,
        hold="release",
        hold_release_s=60,
    )
    told = lines(one, job())
    assert told["requirements"] == "(NumJobStarts =?= 0) && (HasCvmfs)"
    assert (told["accounting_group"], told["rank"], told["job_lease_duration"]) == (
        "group.a",
        "Memory",
        "600",
    )
    assert (told["My.SendCredential"], told["My.JobFlavour"]) == ("true", '"espresso"')
    assert told["My.MaxRuntime"] == str(1200 + 10 + 60)
    assert told["periodic_release"].endswith("time() - EnteredCurrentStatus > 60")


def test_attributes_are_those_that_the_site_allows():
    one = backend(allow_attributes=["ProjectName", "Nice"])
    told = lines(one, job({"attributes": {"ProjectName": 'a"b', "Nice": True}}))
    assert (told["My.ProjectName"], told["My.Nice"]) == ('"a\\"b"', "true")
    why = one.refuses(job({"attributes": {"Owner": "root"}}))
    assert "'Owner' is not allowed here (allowed: ProjectName, Nice)" in why


@pytest.mark.parametrize(
    ("hints", "says"),
    [
        ({"requirements": "true\nqueue 100"}, "one line"),
        ({"requirements": "$(HOME) == 1"}, "without '\\$'"),
        ({"requirements": "true) || (true"}, "parentheses"),
        ({"requirements": '")" == "(" && (a'}, "parentheses"),
        ({"accounting_group": "a b"}, "not the name of a group"),
        ({"accounting_group": "a\n+Owner = 1"}, "not the name of a group"),
        ({"attributes": {"A": "$(HOME)"}}, "without '\\$'"),
        ({"attributes": {"A": [1]}}, "must be a number"),
        ({"no_such_thing": 1}, "no_such_thing"),
    ],
)
def test_what_cannot_be_said_is_refused_before_the_first_job(hints, says):
    one = backend(allow_attributes=["A"])
    with pytest.raises(ValueError, match=says):
        one.directives(job(hints))
    assert one.refuses(job(hints))


@pytest.mark.parametrize("name", ["max_runtime", "request_cpus", "request_memory", "request_disk"])
def test_a_wrong_number_is_refused(name):
    one = backend()
    with pytest.raises(ValueError, match=f"{name}: 'soon'"):
        one.resources(one.Hints.parse({f"htcondor_{name}": "soon"}, where="test"), Resources())


def test_a_mount_elsewhere_takes_a_container():
    assert backend().refuses(job(mounts=(Mount(source="/a", target="/a"),))) is None
    assert "takes a container" in backend().refuses(job(mounts=(Mount(source="/a", target="/b"),)))


def test_run_times():
    assert seconds("workday", "x") == 28800
    assert seconds(60, "x") == 60
    for wrong in ("0", "-5", "1h", ""):
        with pytest.raises(ValueError, match="neither seconds nor"):
            seconds(wrong, "x")
