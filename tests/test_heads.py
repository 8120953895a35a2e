"""What is a classifier's head, what it begins with, and what is no head but a model that is not whole."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sweeper.engines import make_engine
from sweeper.errors import ModelError
from sweeper.messages import BASE
from sweeper.models.heads import some
from sweeper.models.modeling import BaseModel, starting_head
from sweeper.models.pretrained import resolve
from tests import tiny, zoo

BERT = ["bert.pooler.dense", "classifier"]


@pytest.mark.parametrize(
    ("shape", "saved_as", "modules"),
    [
        ("bert", "masked", BERT),
        ("distilbert", "masked", ["classifier", "pre_classifier"]),
        ("roberta", "masked", ["classifier"]),
        ("albert", "masked", ["albert.pooler", "classifier"]),
        ("gpt2", "causal", ["score"]),
        ("xlnet", "causal", ["logits_proj", "sequence_summary.summary"]),
        ("t5", "seq2seq", ["classification_head.dense", "classification_head.out_proj"]),
    ],
)
def test_of_a_pretrained_model_the_head_alone_is_new(shape, saved_as, modules, tmp_path):
    shipped = zoo.make(shape, saved_as)
    base = zoo.load(shipped, tmp_path / "model", "classifier")
    assert list(base.head.modules) == modules
    known = dict(shipped.named_parameters())
    for name, weights in base.model.named_parameters():
        if name not in base.head.fresh:
            was = name if name in known else name.partition(".")[2]
            assert torch.equal(weights, known[was]), name
    with base.put_on(tiny.settings(), 1) as model:
        wholes = {n for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert {name.partition(".modules_to_save")[0].removeprefix("base_model.model.") for name in wholes} <= {
        name for name, _ in base.model.named_modules() if name.startswith(tuple(modules))
    }


def scores(model):
    ids = torch.tensor([[6, 7, 8, 1], [9, 10, 11, 1]])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert", "gpt2", "xlnet", "bart"])
def test_a_head_whose_labels_are_those_of_the_rows_is_kept(shape, tmp_path):
    shipped = zoo.make(shape, "classifier", ["dog", " bird", "cat"]).eval()
    base = zoo.load(shipped, tmp_path / "model", "classifier")
    assert base.head.told == (
        "Classification head: the model's own, as its labels are those of the rows (cat, dog, bird)"
    )
    assert base.model.config.id2label == {0: "dog", 1: "bird", 2: "cat"}
    torch.testing.assert_close(scores(base.model), scores(shipped))
    for seed in (1, 2):
        with base.put_on(tiny.settings(), seed) as model:
            torch.testing.assert_close(scores(model.eval()), scores(shipped))


def test_rows_and_a_kept_head_mean_the_same_by_a_label(tmp_path):
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    shipped = zoo.make("bert", "classifier", ["dog", "bird", "cat"], **quiet).eval()
    base, rows = zoo.load(shipped, tmp_path / "model", "classifier"), tiny.rows("classifier")
    settings = tiny.settings(learning_rate=1e-12)
    channel = tiny.Script(
        [tiny.spec(tmp_path, settings, trial=BASE, marks=(0,)), tiny.spec(tmp_path, settings)]
    )
    make_engine(tiny.config("engine=trainer", kind="classifier"), base, rows).run(channel)
    loss, said = by_hand(shipped, rows.validation)
    _, *trained = channel.evaluations
    assert [one.metrics["loss"] for one in channel.evaluations] == pytest.approx([loss] * 3, rel=1e-5)
    for outcome in channel.outcomes:
        assert [sample.output for sample in outcome.samples] == said[:2]
    train_loss = sum(one.metrics["train_loss"] for one in trained) / 2
    assert train_loss == pytest.approx(by_hand(shipped, rows.train)[0], rel=1e-5)


def by_hand(model, rows):
    """Mean nats of the rows' labels, and the labels that the model gives, by their names in it."""
    nats, said = 0.0, []
    for row in rows:
        with torch.no_grad():
            found = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        nats -= float(found[model.config.label2id[row["answer"]]])
        said.append(model.config.id2label[int(found.argmax())])
    return nats / len(rows), said


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            ["LABEL_0", "LABEL_1", "LABEL_2"],
            "new, as the model's own has no names for its labels (classifier)",
        ),
        (["cat", "dog", "fish"], "new, as the model's own has other labels: cat, dog, fish (classifier)"),
        (["cat", "dog", "Bird"], "new, as the model's own has other labels: cat, dog, Bird (classifier)"),
        (["no", "yes"], "new, as the model's own tells 2 classes apart and the rows have 3 (classifier)"),
    ],
)
def test_another_head_is_new_for_each_trial_and_one_line_says_so(labels, told, tmp_path, capfd):
    tiny.save(zoo.make("bert", "classifier", labels), tmp_path / "model")
    wanted = tiny.local(tmp_path / "model")
    task = tiny.config(kind="classifier").task
    capfd.readouterr()
    base = BaseModel.load(wanted, resolve(wanted), task, tiny.LABELS)
    assert base.head.told == f"Classification head: {told}"
    assert starting_head(resolve(wanted), task, tiny.LABELS) == base.head
    assert capfd.readouterr() == ("", "")
    began = []
    for seed in (1, 2, 1):
        with base.put_on(tiny.settings(), seed) as model:
            began.append(
                model.get_parameter("base_model.model.classifier.modules_to_save.default.weight").clone()
            )
    assert torch.equal(began[0], began[2])
    assert not torch.equal(began[0], began[1])


def test_a_model_without_a_head_is_said_to_get_one(tmp_path):
    base = zoo.load(zoo.make("bert", "masked"), tmp_path / "model", "classifier")
    assert base.head.told == "Classification head: new (bert.pooler.dense, classifier)"


def test_a_kept_head_may_have_something_new_beside_it(tmp_path):
    change(tmp_path / "model", lambda w: [w.pop(name) for name in list(w) if "pooler" in name], tiny.LABELS)
    base = zoo.load(None, tmp_path / "model", "classifier")
    assert base.head.told.endswith("those of the rows (cat, dog, bird); new beside it: bert.pooler.dense")
    assert base.head.order == (0, 1, 2)
    assert base.head.arranged(tiny.LABELS) == tiny.LABELS


def change(folder, edit, labels=(), shape="bert", what="classifier", **config):
    """A model's folder whose weights were edited after it had been saved."""
    tiny.save(zoo.make(shape, what, labels), folder)
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | config))


def test_in_a_bfloat16_model_what_is_new_is_float32_and_the_rest_goes_on_as_it_was(tmp_path):
    base = zoo.load(zoo.make("bert", "masked"), tmp_path / "model", "classifier", dtype="bfloat16")
    seen = []
    base.model.bert.pooler.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with base.put_on(tiny.settings(), 1) as model:
        assert scores(model).dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert base.model.bert.pooler.dense.weight.dtype == base.model.classifier.weight.dtype == torch.float32


def test_a_norm_that_is_new_scales_nothing(tmp_path):
    norm = "bert.encoder.layer.1.output.LayerNorm"
    change(tmp_path / "model", lambda weights: [weights.pop(f"{norm}.{name}") for name in ("weight", "bias")])
    base = zoo.load(None, tmp_path / "model", "classifier")
    assert norm in base.head.modules
    assert base.model.get_parameter(f"{norm}.weight").unique().tolist() == [1.0]
    assert base.model.get_parameter(f"{norm}.bias").unique().tolist() == [0.0]


NOT_WHOLE = (
    r"model: {} of the {} weights that its config.json asks for are not in its files, or have another "
)


def test_a_classifier_of_which_more_than_a_head_is_lacking_is_refused(tmp_path):
    change(tmp_path / "model", lambda weights: [weights.pop(n) for n in list(weights) if "layer.1." in n])
    with pytest.raises(
        ModelError, match=NOT_WHOLE.format(16, 39) + r"size there \(bert.encoder.layer.1.* and 12 m"
    ):
        zoo.load(None, tmp_path / "model", "classifier")


def test_a_part_of_a_pretrained_module_that_is_lacking_is_refused(tmp_path):
    change(tmp_path / "model", lambda weights: weights.pop("bert.encoder.layer.1.output.LayerNorm.bias"))
    with pytest.raises(ModelError, match=NOT_WHOLE.format(1, 39)):
        zoo.load(None, tmp_path / "model", "classifier")


def test_a_pretrained_module_of_another_size_is_refused(tmp_path):
    change(tmp_path / "model", lambda weights: None, type_vocab_size=3)
    with pytest.raises(
        ModelError, match=NOT_WHOLE.format(1, 39) + r"size there \(bert.embeddings.token_type"
    ):
        zoo.load(None, tmp_path / "model", "classifier")


@pytest.mark.parametrize(
    "edit", [lambda w: w.pop("lm_head.weight"), lambda w: w.update({"lm_head.weight": torch.ones(3, 32)})]
)
def test_a_writer_of_which_anything_is_lacking_is_refused(edit, tmp_path):
    change(tmp_path / "model", edit, shape="llama", what="causal")
    with pytest.raises(
        ModelError, match=NOT_WHOLE.format(1, 21) + r"size there \(lm_head.weight\); get the mod"
    ):
        zoo.load(None, tmp_path / "model", "causal")


def test_the_first_of_many_names_are_told():
    assert some("abcd") == "a, b, c, d"
    assert some("abcdef") == "a, b, c, d and 2 more"
