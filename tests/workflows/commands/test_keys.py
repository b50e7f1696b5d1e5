"""The command `keys` prints a key once, lists what a file has, and takes keys out of it."""

import json

import pytest

from mirepoix.serving.http.keys import Keys
from mirepoix.workflows.__main__ import main


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_a_key_is_the_only_line_of_the_output_and_opens_the_server(file, capsys):
    assert main(["keys", "add", "shop", "--file", str(file), "--requests-per-minute", "60", "--in-flight", "4"]) == 0
    said = capsys.readouterr()
    (key,) = said.out.splitlines()
    entry = Keys(file).find(f"Bearer {key}".encode()).entry
    assert (entry.name, entry.requests_per_minute, entry.inputs_per_minute, entry.in_flight) == ("shop", 60, None, 4)
    assert "shown this once" in said.err and key not in said.err


def test_a_list_has_names_and_limits_and_no_hash(file, capsys):
    for name, *limits in (("shop",), ("batch", "--inputs-per-minute", "5000")):
        main(["keys", "add", name, "--file", str(file), *limits])
    capsys.readouterr()
    assert main(["keys", "list", "--file", str(file)]) == 0
    shop, batch = capsys.readouterr().out.splitlines()
    assert shop.startswith("shop ") and shop.endswith("no limits") and batch.endswith("inputs per minute 5000")
    assert main(["keys", "list", "--file", str(file), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [set(each) for each in listed] == [{"name", "created"}, {"name", "created", "inputs_per_minute"}]


def test_a_revoked_key_is_gone(file, capsys):
    main(["keys", "add", "shop", "--file", str(file)])
    key = capsys.readouterr().out.strip()
    assert main(["keys", "revoke", "shop", "--file", str(file)]) == 0
    assert Keys(file).find(f"Bearer {key}".encode()) is None
    assert main(["keys", "revoke", "shop", "--file", str(file)]) == 2
    assert "has no key shop; it has none" in capsys.readouterr().err
