import pytest

from linsey.app.arguments import gathered, read_arguments
from linsey.errors import InputError


def test_values_are_literals_or_text():
    texts = ["a=1e-3", "b={3: 0.5}", "c=None", "d=TRUE", "e=x=y", "f=[1,"]
    assert read_arguments(texts, "--arg") == {
        "a": 1e-3, "b": {3: 0.5}, "c": None, "d": True, "e": "x=y", "f": "[1,",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", "1=a"])
def test_other_forms_are_refused(text):
    with pytest.raises(InputError, match="--arg: not an argument: expected NAME=VALUE"):
        read_arguments([text], "--arg")


def test_options_given_again_add_to_each_other():
    given = ["run", "--arg", "a=1", "b=2", "--lr", "1", "--arg=c=-3", "--other", "x"]
    assert gathered(given, {"--arg"}) == [
        "run", "--lr", "1", "--other", "x", "--arg", "a=1", "b=2", "c=-3",
    ]  # fmt: skip
    assert gathered(["--my_arg", "a=1"], {"--my-arg"}) == ["--my-arg", "a=1"]
    assert gathered(["--lr", "1"], {"--arg"}) == ["--lr", "1"]
