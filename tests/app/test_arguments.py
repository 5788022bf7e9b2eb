from linsey.app.arguments import gathered


def test_options_given_again_add_to_each_other():
    given = ["run", "--arg", "a=1", "b=2", "--lr", "1", "--arg=c=-3", "--other", "x"]
    assert gathered(given, {"--arg"}) == [
        "run", "--lr", "1", "--other", "x", "--arg", "a=1", "b=2", "c=-3",
    ]  # fmt: skip
    assert gathered(["--my_arg", "a=1"], {"--my-arg"}) == ["--my-arg", "a=1"]
    assert gathered(["--lr", "1"], {"--arg"}) == ["--lr", "1"]
