import os
import time

import pytest
from drawbar.closure import READ_LIMIT, Closure
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def root(tmp_path):
    return tmp_path


def write(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def closure(root, files, *texts):
    write(root, **files)
    return Closure(root, files, texts)


@pytest.mark.parametrize(
    "text",
    [
        "python code/fit-model.py",
        "python ./code/fit-model.py --fast",
        "cd code; python fit-model.py",
        "python -m fit-model",
        "sh -c 'code/fit-model.py>log'",
        "x=$PWD/code/fit-model.py",
        "ls code",
        "ls code/",
        "ls code/*.py",
        "ls code/$name.py",
        "python code/fit-{kind}.py",
        "python fit-$kind.py",
        "python fit-%s.py",
        "python fit-*.py",
        "cp code/[a-z]*.py .",
    ],
)
def test_mentions(root, text):
    files = {"code/fit-model.py": "", "other.txt": ""}
    found = closure(root, files, text, "other").inputs_of([text])
    assert found == ("code/fit-model.py",)


@pytest.mark.parametrize(
    "text",
    [
        "python refit-models.py",
        "fit",
        "code/other.py",
        "xcode",
        "code_2",
        "2 * 3",
        "**options",
        "fit-*.txt",
    ],
)
def test_mentions_nothing(root, text):
    files = {"code/fit-model.py": "", "code/other.py": ""}
    found = closure(root, files, text, "fit-model", "other").inputs_of([text])
    assert "code/fit-model.py" not in found


def test_a_name_in_a_directory_that_is_none_of_its_files_may_be_half_of_one(root):
    files = {"code/fit-model.py": "", "other.txt": ""}
    text = "run('code/fit' + suffix)"
    assert closure(root, files, text, "other").inputs_of([text]) == ("code/fit-model.py",)


def test_an_edited_third_step_is_no_business_of_the_first(root):
    commands = [f"python code/step{number}.py > results/{number}.txt" for number in range(5)]
    files = {f"code/step{number}.py": "print(1)\n" for number in range(5)}
    found = closure(root, files, *commands)
    for number, command in enumerate(commands):
        assert found.inputs_of([command]) == (f"code/step{number}.py",)


def test_a_mentioned_text_file_mentions_in_its_turn(root):
    files = {
        "run.sh": "python code/a.py",
        "code/a.py": "import b\nopen('data/table.csv')",
        "code/b.py": "import a",
        "data/table.csv": "run",
        "data/other.csv": "",
        "lonely.txt": "",
    }
    found = closure(root, files, "sh run.sh", "cat other.csv")
    assert found.inputs_of(["sh run.sh"]) == (
        "code/a.py",
        "code/b.py",
        "data/table.csv",
        "lonely.txt",
        "run.sh",
    )
    assert found.inputs_of(["cat other.csv"]) == ("data/other.csv", "lonely.txt")


def test_what_nothing_mentions_belongs_to_every_job_with_all_it_mentions(root):
    files = {"settings.toml": "uses = 'tables'", "tables.csv": "", "a.py": ""}
    found = closure(root, files, "python a.py", "true")
    assert found.inputs_of(["true"]) == ("settings.toml", "tables.csv")
    assert found.inputs_of([]) == ("settings.toml", "tables.csv")


def test_data_mentions_nothing(root):
    files = {"big.txt": "b " * READ_LIMIT, "b.py": "", "blob": ""}
    (root / "blob").parent.mkdir(exist_ok=True)
    write(root, **files)
    (root / "blob").write_bytes(b"b\0")
    found = Closure(root, files, ["big", "blob", "b"])
    assert found.inputs_of(["big blob"]) == ("big.txt", "blob")


def test_a_link_mentions_what_it_leads_to(root):
    write(root, **{"data/v1.csv": "", "x": ""})
    (root / "latest").symlink_to("data/v1.csv")
    found = Closure(root, ["data/v1.csv", "latest"], ["cat latest", "cat data/v1.csv"])
    assert found.inputs_of(["cat latest"]) == ("data/v1.csv", "latest")


def test_files_that_cannot_be_read_are_mentioned_all_the_same(root):
    os.mkfifo(root / "pipe")
    (root / "loop").symlink_to("loop")
    found = Closure(root, ["pipe", "loop", "gone"], ["pipe loop gone"])
    assert found.inputs_of(["pipe"]) == ("pipe",)


@pytest.mark.parametrize(
    "name", ["ünïcode.txt", "-dash", "new\nline", "+++", ".hidden", "n" * 255, os.fsdecode(b"\xff")]
)
def test_odd_names_are_found_or_belong_to_every_job(root, name):
    (root / name).write_text("")
    found = Closure(root, [name], [f"cat {name}"])
    assert found.inputs_of([f"cat {name}"]) == (name,)


def test_each_file_is_read_once(root, monkeypatch):
    files = {f"f{number}.py": " ".join(f"f{other}" for other in range(30)) for number in range(30)}
    write(root, **files)
    read = []
    real = Closure._read
    monkeypatch.setattr(Closure, "_read", lambda self, path: read.append(path) or real(self, path))
    texts = [f"python f{number}.py" for number in range(30)]
    found = Closure(root, files, texts)
    for text in texts:
        assert len(found.inputs_of([text])) == 30
    assert sorted(read) == sorted(files)


def cost(root, count):
    files = {f"code/d{number % 9}/script-{number}.py": f"import script_{number}\n" for number in range(count)}
    if not (root / "code").exists():
        write(root, **files)
    texts = [f"python code/d{number % 9}/script-{number}.py > out/{number}" for number in range(count)]
    started = time.process_time()
    found = Closure(root, files, texts)
    for text in texts:
        assert len(found.inputs_of([text])) == 1
    return time.process_time() - started


def test_the_cost_is_linear(tmp_path):
    for count in (250, 1000):
        (tmp_path / str(count)).mkdir()
    small = min(cost(tmp_path / "250", 250) for _ in range(3))
    large = min(cost(tmp_path / "1000", 1000) for _ in range(3))
    assert large < 10 * small


@pytest.mark.parametrize(
    "text",
    [
        "a{i}" * 20000 + "b",
        "{" * 100000,
        "a*" * 40000,
        "a" * 200000,
        "a-" * 50000,
        "{a" * 50000,
        "a/" * 50000,
    ],
)
def test_no_text_takes_long(root, text):
    sources = ["a" * 200 + ".txt", "-".join("a" * 100), *(f"a/a{number}" for number in range(200))]
    started = time.process_time()
    Closure(root, sources, [text])
    assert time.process_time() - started < 1000 * cost(root, 30)


@settings(max_examples=100, deadline=None)
@given(
    mentions=st.lists(st.sets(st.integers(0, 7)), min_size=8, max_size=8),
    jobs=st.lists(st.sets(st.integers(0, 7)), max_size=4),
)
def test_the_closure_is_what_a_search_finds(tmp_path_factory, mentions, jobs):
    root = tmp_path_factory.mktemp("root")
    files = {f"f{number}.x": " ".join(f"f{each}" for each in found) for number, found in enumerate(mentions)}
    write(root, **files)
    texts = [" ".join(f"f{each}" for each in job) for job in jobs]

    def search(start):
        reached, pending = set(), list(start)
        while pending:
            each = pending.pop()
            if each not in reached:
                reached.add(each)
                pending += mentions[each]
        return reached

    mentioned = search({each for job in jobs for each in job})
    everywhere = search(set(range(8)) - mentioned)
    found = Closure(root, files, texts)
    for job, text in zip(jobs, texts, strict=True):
        expected = search(job) | everywhere
        assert found.inputs_of([text]) == tuple(sorted(f"f{each}.x" for each in expected))
