"""What this engine computes in place of packtivity is what packtivity computes."""

import jq
import pytest
from drawbar_yadage import library
from drawbar_yadage.publishing import PublishError, publish
from drawbar_yadage.states import State
from drawbar_yadage.values import Values, leaves
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module", autouse=True)
def yadage():
    library.load()


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "b/c", "~1", "0"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/~0"), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.recursive(
    st.sampled_from(["one", "two", None, False]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/~0"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON.filter(lambda value: isinstance(value, list | dict)))
def test_leaves_are_those_that_jq_finds(value):
    paths = jq.compile("paths(scalars)").input_value(value).all()
    found = leaves(value)
    assert sorted(place.parts for place, _ in found) == sorted([str(part) for part in path] for path in paths)
    assert all(place.get(value) == leaf for place, leaf in found)


@given(st.dictionaries(st.sampled_from("ab/~0"), NAMES, max_size=3))
def test_results_taken_from_parameters_are_those_of_packtivity(outputs):
    from packtivity.handlers.publisher_handlers import handlers

    parameters = Values({"one": ["x", 1], "two": None})
    publisher = {"publisher_type": "frompar-pub", "outputmap": outputs}
    state = State("step", ["/step"], [])
    theirs = handlers["frompar-pub"]["default"](publisher, parameters, state)
    assert publish(publisher, parameters, state, lambda _: False).json() == Values(theirs).json()


def test_a_result_of_an_unknown_parameter_is_an_error():
    publisher = {"publisher_type": "frompar-pub", "outputmap": {"out": "three"}}
    with pytest.raises(PublishError, match="frompar-pub uses 'three', which is no parameter of the step"):
        publish(publisher, Values({"one": 1}), State("step", ["/step"], []), lambda _: False)
