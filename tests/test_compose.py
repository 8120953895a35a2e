"""Composing configurations: the user's own files, and faults in words."""

import pytest

from sweeper.compose import compose, read_config
from sweeper.errors import ConfigError

OWN = """\
# python -m sweeper +experiment=my_summaries
# @package _global_
defaults:
  - override /model: smollm2_135m
  - override /data: file
  - override /space: empty
sweep: {name: my_summaries, seed: 7}
data: {path: rows.jsonl, input: article, target: highlights}
task:
  prompt: "Summarize in one sentence:\\n{input}"
  objective: {metric: rougeL, direction: maximize}
trial:
  epochs: 1
  lora: {rank: 8, alpha: 32}
space:
  learning_rate: {low: 1e-4, high: 5e-3, log: true}
  batch_size: {choices: [4, 8, 16]}
  epochs: {low: 1, high: 3}
  lora:
    rank: {choices: [4, 8, 16, 32]}
    dropout: {low: 0.0, high: 0.2, step: 0.05}
  weight_decay: {low: 0.0, high: 0.1, when: {scheduler: cosine}}
budget: {trials: 20, minutes: 60}
"""


def test_an_experiment_in_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "my_summaries.yaml").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    config, space = read_config(compose(["+experiment=my_summaries"]))
    assert config.sweep.name == "my_summaries"
    assert config.data.source == "file"
    assert config.budget.trials == 20
    assert space.names == (
        "learning_rate", "batch_size", "epochs", "weight_decay", "lora.rank", "lora.dropout",
    )  # fmt: skip


def test_own_groups_join_the_shipped_ones(tmp_path, monkeypatch):
    (tmp_path / "conf" / "space").mkdir(parents=True)
    (tmp_path / "conf" / "space" / "mine.yaml").write_text("batch_size: {choices: [2, 8]}\n")
    monkeypatch.chdir(tmp_path)
    _, space = read_config(compose(["+experiment=summarize", "space=mine"]))
    assert space.names == ("batch_size",)


@pytest.mark.parametrize(
    "overrides",
    [
        ["budget.trials=40", "space.lora.rank.choices=[8,16]", "pruner=none", "~space.batch_size"],
        ["+space.warmup={low: 0.0, high: 0.1}"],
        ["data=file", "data.path=rows.jsonl"],
    ],
)
def test_the_command_line_of_hydra(overrides):
    changed = read_config(compose(["+experiment=summarize", *overrides]))
    assert changed != read_config(compose(["+experiment=summarize"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.naem=x"], r"sweep\.naem: unknown name; did you mean `sweep\.name`\?"),
        (["trial.lora.rnak=3"], r"trial\.lora\.rnak: unknown name; did you mean `trial\.lora\.rank`\?"),
        (
            ["executor=inline", "executor.workers=2"],
            r"executor\.workers: is no setting of the executor that is chosen; these have it: executor=auto, "
            "executor=local, executor=ray",
        ),
        (["foo=1"], r"foo: unknown name; settings of a trial are trial\.NAME, and --cfg prints every name$"),
        (
            ["space.warmup={low: 0.0, high: 0.1}"],
            r"unknown name; a new entry of the space is added with a plus: '\+space\.warmup=",
        ),
        (["space.lora.alpha.low=1"], r"did you mean `.*`\? A new entry of the space is added with a plus: "),
        (["space=lora2"], "  space: there is no option `lora2`; there are: empty, .*; did you mean `lora`"),
        (["sampler=bayes"], r"sampler: there is no option `bayes`; there are: gp, grid, .*, tpe$"),
        (["model=gpt5"], r"model: there is no option `gpt5`; there are: .*smollm2_135m"),
        (["+experiment=sumarize"], r"experiment: there is no option `sumarize`.*did you mean `summarize`"),
        (["data=file"], r"data\.path: is needed; give data\.path="),
        (["budget.trials=[1"], r"budget\.trials: is cut off; write: 'budget\.trials=\[1\]'"),
        (["~space.batchsize"], r"~space\.batchsize: there is no .*; did you mean `~space\.batch_size`\?"),
        (["~space.dropout"], r"~space\.dropout: there is no .*; did you mean `~space\.lora\.dropout`\?"),
        (["~space.noise"], r"~space\.noise: there is no .*; in `space` there are: space\.learning_rate, "),
        (["~nothing"], r"~nothing: there is no `nothing` to take away; --cfg prints every name"),
        (["lr=1e-3"], r"lr: unknown name; here it is `trial\.learning_rate`"),
        (["modl=custom"], r"modl: unknown name; did you mean `model`\?"),
        (["data@x=file"], r"data: can't be put elsewhere; write data=file$"),
        (["+model=custom"], r"model: is there already; leave the plus out: model=custom"),
        (["++model=custom"], r"model: is there already; leave the plus out: model=custom"),
        (["+sweep.name=x"], r"sweep\.name: is there already; leave the plus out: sweep\.name=x"),
        (
            ["space.scheduler={choices: [linear]}"],
            r"with a plus: '\+space\.scheduler=\{choices: \[linear\]\}'",
        ),
        (["sweep.name=${nowhere}"], "nowhere"),
        (["budget=null"], r"budget=null: `budget` is a group; name one of its members: .*"),
        (["budget.trials=3", "budget=3"], "budget=3: `budget` is a group"),
        (["+experiment=null"], r"experiment=null: `experiment` is a group.*summarize"),
    ],
)
def test_faults_say_what_to_do(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(overrides if overrides[0].startswith("+exp") else ["+experiment=summarize", *overrides])


def test_what_hydra_finds_first_hides_nothing_else():
    wrong = ["budget.trails=3", "data.pth=x", "~space.batchsize", "sampler=tpe2", "data.sizes.validation=0"]
    with pytest.raises(ConfigError, match=r"(?s)^5 faults in the configuration") as told:
        compose(["+experiment=summarize", *wrong])
    assert {fault.field for fault in told.value.faults} == {
        *("budget.trails", "data.pth", "~space.batchsize", "sampler", "data.sizes.validation")
    }


@pytest.mark.parametrize(
    "override",
    [
        *(
            "foo=1",
            "+model=custom",
            "~nothing",
            "trial=3",
            "sweep.name.x=3",
            "a/b=3",
            "data=[file]",
            "data@x=file",
        ),
        *("trial.epochs=1,2", "trial.epochs=choice(1,2)", "data.path=a(b", "+sweep.name=x", "++data=file"),
        *("sweep.name=${nowhere}", "~data=hub", "~sweep.seed=3", "hydra.verbose=true", "experiment=nope"),
    ],
)
def test_advice_of_hydra_is_for_other_programs(override):
    with pytest.raises(ConfigError, match="fault") as told:
        read_config(compose(["+experiment=summarize", override]))
    for words in ("hydra.cc", "HYDRA_FULL_ERROR", "multirun", "To append", "key=", "prefix", "defaults list"):
        assert words not in str(told.value)


def test_what_a_fault_says_to_write_can_be_written():
    with pytest.raises(ConfigError, match="with a plus: ") as told:
        compose(["+experiment=summarize", "space.warmup=uniform(0, 0.1)", "space.weight_decay.low=0"])
    assert told.value.mended == ()
    with pytest.raises(ConfigError, match="what a sweep tries stands in its space") as told:
        compose(["+experiment=summarize", "space.warmup=uniform(0, 0.1)"])
    _, space = read_config(compose(told.value.mended))
    assert "warmup" in space.names


def test_an_unknown_option_is_told_without_the_search_path():
    with pytest.raises(ConfigError, match="there are: classify") as refusal:
        compose(["+experiment=sumarize"])
    assert "search path" not in str(refusal.value)
    assert str(refusal.value).endswith("instruct, summarize; did you mean `summarize`?")


@pytest.mark.parametrize("given", ["={choices: [1e-4, 2e-4]}", ".choices=[1e-4, 2e-4]"])
def test_choices_are_put_in_place_of_a_range_as_the_fault_says(given):
    name = "space.learning_rate"
    replaced = [f"~{name}", f"+{name}={{choices: [1e-4, 2e-4]}}"]
    told = (
        rf"has other keys in the space \(low, high, log\); to replace them: {' '.join(map(repr, replaced))}"
    )
    with pytest.raises(ConfigError, match=told.replace("+", r"\+").replace("[", r"\[")):
        compose(["+experiment=summarize", name + given])
    with pytest.raises(
        ConfigError, match=f"On the command line '~{name}' before it takes the preset's entry away"
    ):
        read_config(compose(["+experiment=summarize", f"+{name}{given}"]))
    _, space = read_config(compose(["+experiment=summarize", *replaced]))
    assert next(one for one in space.entries if one.name == "learning_rate").choices == (1e-4, 2e-4)


def test_an_empty_space_is_a_fault_unless_one_trial_is_wanted():
    with pytest.raises(ConfigError, match="space: is empty, so all trials would be alike"):
        read_config(compose(["+experiment=summarize", "space=empty"]))
    read_config(compose(["+experiment=summarize", "space=empty", "budget.trials=1"]))


def test_a_grid_needs_a_finite_space():
    with pytest.raises(ConfigError, match=r"space\.learning_rate: .*continuous"):
        read_config(compose(["+experiment=summarize", "sampler=grid"]))


def test_a_grid_fault_is_told_with_the_rest():
    with pytest.raises(
        ConfigError, match=r"(?s)space\.learning_rate: .*continuous.*task\.prompt: must"
    ) as told:
        read_config(
            compose(["+experiment=summarize", "sampler=grid", "task.prompt=none", "model.dtype=int3"])
        )
    assert "model.dtype" in {fault.field for fault in told.value.faults}


def test_an_empty_space_is_told_with_the_rest():
    with pytest.raises(ConfigError, match=r"(?s)^2 faults.*space: is empty.*task\.prompt: must name"):
        read_config(compose(["+experiment=summarize", "space=empty", "task.prompt=none"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [a\n b: {", r"conf/model/mine\.yaml: is no YAML at line 2, column 3: expected"),
        (b"name: \t@x", r"conf/model/mine\.yaml: is no YAML at line 1"),
        (b"name: \xff\xfe", r"conf/model/mine\.yaml: is no text in UTF-8"),
    ],
)
def test_a_broken_file_of_the_user_is_named(tmp_path, monkeypatch, content, message):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        compose(["+experiment=summarize", "model=mine"])


@pytest.mark.parametrize(
    "root",
    ["defaults:\n  - model: resnet\n  - _self_\nlr: 0.1\n", "lr: 0.1\n", "- a\n", "defaults: [base]\n"],
)
def test_the_configuration_of_another_program_in_the_working_folder_is_named(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(root)
    with pytest.raises(ConfigError, match=r"conf/config\.yaml: belongs to another program.*cd tuning"):
        compose(["+experiment=summarize"])


def test_a_tilde_in_a_value_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada (old)")
    tree = compose(["+experiment=summarize", "data=file", "data.path=~/my rows (1).jsonl", "model.name=~"])
    assert tree["data"]["path"] == "/home/ada (old)/my rows (1).jsonl"
    assert tree["model"]["name"] == "/home/ada (old)"
