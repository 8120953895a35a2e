"""What is a secret and what only looks like one. The secrets here are made up, in pieces."""

import pytest

from sweeper.data.secret_kinds import secrets

RANDOM = "q7Zp2LxV9mKt4RwYb8Ns3GhD6cJfXa5QeT1u"


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        ("AKIA" + "Z7Q2M4N6P8R3T5V9", "aws key"),
        ("ghp_" + RANDOM, "github token"),
        ("github_pat_" + RANDOM + "_" + RANDOM, "github token"),
        ("hf_" + "qZpLxVmKtRwYbNsGhDcJfXaQeTuWkAoBi", "hugging face token"),
        ("sk-" + "proj-" + RANDOM, "openai key"),
        ("xoxb" + "-123456789012-" + RANDOM, "slack token"),
        ("eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NSJ9." + RANDOM, "jwt"),
        ("AIza" + RANDOM[:35], "api key"),
        ("glpat-" + RANDOM[:20], "api key"),
        (
            "-----BEGIN RSA " + "PRIVATE KEY-----\n" + RANDOM * 4 + "\n-----END RSA PRIVATE KEY-----",
            "private key",
        ),
    ],
)
def test_tokens(secret: str, kind: str) -> None:
    text = f"use {secret} here"
    assert [(text[start:end], kind) for start, end, kind in secrets(text)] == [(secret, kind)]


def test_a_private_key_that_is_cut_off() -> None:
    text = "-----BEGIN " + "PRIVATE KEY-----\n" + RANDOM * 3
    assert [found[:2] for found in secrets(text)] == [(0, len(text))]


@pytest.mark.parametrize(
    "template",
    ['api_key="{}"', "API-KEY: {}", "aws_secret_access_key = {}", '"token": "{}"', "password={}",
     "Authorization: Bearer {}", "https://jane:{}@db.host/x"],
)  # fmt: skip
def test_values_called_a_key(template: str) -> None:
    text = template.format(RANDOM)
    (found,) = set(secrets(text))
    assert RANDOM in text[found[0] : found[1]]
    assert found[2] == "secret"


@pytest.mark.parametrize(
    "text",
    [
        "api_key=your_api_key_here_1234", "token = tokenizer.convert_tokens_to_ids_v2(x)",
        "tokens: mask_replace_prob=0.0", "password: xxxxxxxxxxxxxxxxxxxx", "key=os.environ['MY_KEY_2']",
        "postgres://user:password@localhost/db", "sk-learn-compatible-estimator-api", "the key is 42",
        "hf_hub_download_with_progress_bar", "sk-" + "a" * 30, "-----BEGIN PRIVATE KEY-----",
        "secret: 2024-01-02/03",
        "eyJhbGci alone", "author = Somebody_With_A_Long_Name",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_secret(text: str) -> None:
    assert list(secrets(text)) == []
