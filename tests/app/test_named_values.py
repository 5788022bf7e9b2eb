import pytest

from linsey.app.named_values import argument_texts, in_one_form, parse_arguments
from linsey.errors import InputError


def test_values_are_literals_or_text():
    texts = ["a=1e-3", "b={3: 0.5}", "c=None", "d=TRUE", "e=x=y", "f=[1,"]
    assert parse_arguments(texts, "--arg") == {
        "a": 1e-3, "b": {3: 0.5}, "c": None, "d": True, "e": "x=y", "f": "[1,",
    }  # fmt: skip
    words = parse_arguments(
        ["act=gelu", "name='none'", "sizes=[3, [4]]", "my-arg=none"]
    )
    assert words == {"act": "gelu", "name": "none", "sizes": (3, (4,)), "my_arg": None}
    assert in_one_form(argument_texts(words)) == argument_texts(words)
    assert parse_arguments(argument_texts(words)) == words


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", "1=a"])
def test_other_forms_are_refused(text):
    with pytest.raises(InputError, match="--arg: not an argument: expected NAME=VALUE"):
        parse_arguments([text], "--arg")
