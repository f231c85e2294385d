"""The rule file: parsed with line numbers, matched in order, carried out in stages."""

import pytest
import torch
from torch import nn

from pintsize.errors import InputError
from pintsize.pruning import masks_of
from pintsize.pruning.rules.language import Rules
from pintsize.pruning.rules.stages import RuleStages

TEXT = r"""
# two stages for the first layer
0\.weight,0.25;0.5,l2norm   # filters
.*\.weight,0.5,abs
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x)
        return self.c((x + self.b(x)).mean((2, 3)))


def test_parsing_keeps_lines_and_order():
    rules = Rules.parse(TEXT)
    assert [(r.line, r.pattern, r.sparsities, r.importance) for r in rules.rules] == [
        (3, r"0\.weight", (0.25, 0.5), "l2norm"),
        (4, r".*\.weight", (0.5,), "abs"),
    ]
    assert rules.stages == 2
    assert Rules.parse(rules.text()).text() == rules.text()
    assert Rules.parse(r"[a\#]{1,2}\.w,0.5,abs").rules[0].pattern == r"[a\#]{1,2}\.w"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("conv,0.5", "line 2: conv,0.5: it is no rule"),
        ("(conv,0.5,abs", "line 2.*no regular expression"),
        ("conv,high,abs", "line 2.*'high'.*no number"),
        ("conv,1,abs", "line 2.*vanish"),
        ("conv,1.5,abs", r"line 2.*\[0, 1\)"),
        ("conv,-0.1,abs", r"line 2.*\[0, 1\)"),
        ("conv,0.5;0.3,abs", "line 2.*fall"),
        ("conv,0.5,l2nrm", "line 2.*l2norm"),
        ("conv,0.5;,abs", "line 2.*no number"),
        (",0.5,abs", "line 2.*no rule"),
    ],
)
def test_bad_lines_are_named(line, match):
    with pytest.raises(InputError, match=match):
        Rules.parse(f"# comment\n{line}\n")


def test_empty_missing_and_existing_files(tmp_path):
    with pytest.raises(InputError, match="no rule"):
        Rules.parse("# nothing\n")
    with pytest.raises(InputError, match="cannot be read"):
        Rules.load(tmp_path / "none")
    rules = Rules.parse(TEXT)
    rules.save(tmp_path / "rules")
    (tmp_path / "rules").write_text("edited")
    with pytest.raises(InputError, match="exists"):
        rules.save(tmp_path / "rules")
    assert (tmp_path / "rules").read_text() == "edited"
    rules.save(tmp_path / "rules", overwrite=True)
    assert Rules.load(tmp_path / "rules").rules == Rules.parse(rules.text()).rules


def test_first_match_wins_and_names_match_in_full():
    matched = Rules.parse(TEXT).match(network())
    assert {name: rule and rule.line for name, rule in matched.items()} == {
        "0.weight": 3, "3.weight": 4, "6.weight": 4
    }  # fmt: skip
    assert Rules.parse("3.weight,0.5,abs").match(network())["0.weight"] is None
    with pytest.raises(InputError, match="line 1.*it matches no parameter"):
        Rules.parse(r"0\.weigh,0.5,abs").match(network())
    with pytest.raises(InputError, match="only 1.weight"):
        Rules.parse(r"1\.weight,0.5,abs").match(network())


def test_dry_run_changes_nothing_and_says_what_would_happen():
    model = network()
    text = Rules.parse("0.weight,0.3,abs\n0.*,0.5,l1norm\n6.weight,0.1,abs").dry_run(model)
    assert "left alone" in next(line for line in text.splitlines() if line.startswith("3.weight"))
    assert "line 1" in next(line for line in text.splitlines() if line.startswith("0.weight"))
    assert "line 2 (0.*): earlier rules take all" in text
    assert not masks_of(model)


def test_stages_reach_fractions_of_the_original():
    model, example = network(), torch.randn(2, 1, 8, 8)
    stages = RuleStages(model, Rules.parse(TEXT), example=example)
    stages.run(0)
    assert model[0].weight.shape[0] == 6
    assert int(masks_of(model)["6.weight"].sum()) == 160
    stages.run(1)
    assert model[0].weight.shape[0] == 4
    stages.run(2)  # the last sparsity holds
    assert model[0].weight.shape[0] == 4
    with pytest.raises(InputError, match="no example"):
        RuleStages(network(), Rules.parse(TEXT))


def test_channels_that_are_added_need_rules_that_agree():
    example = torch.randn(2, 1, 4, 4)

    def stages(text):
        return RuleStages(Residual(), Rules.parse(text), example=example)

    with pytest.raises(InputError, match=r"line 1: a\.weight: its channels are also those of b\.weight"):
        stages("a.weight,0.5,l1norm")
    with pytest.raises(InputError, match="another criterion"):
        stages("a.weight,0.5,l1norm\nb.weight,0.5,l2norm")
    with pytest.raises(InputError, match=r"line 1: c\.weight: its filters cannot be removed"):
        stages("c.weight,0.5,l1norm")
    both = stages("a.weight,0.5,l1norm\nb.weight,0.25,l1norm")
    both.run(0)
    assert both.model.a.weight.shape[0] == both.model.b.weight.shape[0] == 6  # once, by the smaller sparsity
