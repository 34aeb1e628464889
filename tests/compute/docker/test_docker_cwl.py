"""CWL documents of cwltool's distribution that name an image: what cwltool and drawbar make of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drawbar.testing.child import forked

sys.path.insert(0, str(Path(__file__).parents[2] / "upstream"))

from cwltool_documents import DOCUMENTS, FOLDER, by_cwltool, job_of, plain, warm

pytestmark = pytest.mark.docker

DEADLINE_S = 120
IMAGE = re.compile(r"""dockerPull["']?: *["']?([^"'\s,]+)""")
NAMED = {name: IMAGE.findall((FOLDER / name).read_text()) for name in DOCUMENTS}


def by_drawbar(document, job, place):
    program = Path(sys.executable).with_name("drawbar-cwl-runner")
    command = [program, "--backend", "docker", "--quiet", "--outdir", place, FOLDER / document]
    done = subprocess.run(
        [*command, *([job] if job else [])], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    return plain(json.loads(done.stdout)) if done.returncode == 0 else f"failed: {done.stderr}"


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


@pytest.mark.parametrize("document", [name for name, images in NAMED.items() if images])
def test_ends_as_with_cwltool(document, engine, tmp_path):
    if shutil.which("docker") is None:
        pytest.skip("cwltool needs the program docker")
    missing = [name for name in NAMED[document] if engine.image(name.removeprefix("docker://")) is None]
    if missing:
        pytest.skip(f"the engine of the tests has no image {missing[0]}")
    job = job_of(document)
    for place in ("cwltool", "drawbar"):
        (tmp_path / place).mkdir()
    expected = forked(lambda _: by_cwltool(document, job, tmp_path / "cwltool"), DEADLINE_S)
    found = by_drawbar(document, job, tmp_path / "drawbar")
    if expected is None:
        assert isinstance(found, str), f"cwltool fails here: {found}"
    else:
        assert found == expected
