"""keelnet plan: what was found is not lost by what comes after it."""

from keelnet.cli import invoke
from keelnet.experiments import fits
from keelnet.experiments import plan as plans
from keelnet.experiments.rehearsal import Measured


def test_the_plan_is_printed_before_what_fits_is_looked_for(monkeypatch, capsys):
    compute, mb = plans.plan, 10**6

    def rehearse(part):
        return Measured(*[500 * mb] * 3, mb, mb, mb, 0, 200 * mb, 1.0, 0.1)

    def fail(*arguments):
        raise ValueError("nothing more is known")

    monkeypatch.setattr(plans, "plan", lambda recipe, note: compute(recipe, rehearse=rehearse))
    monkeypatch.setattr(fits, "advice", fail)
    assert invoke(["plan", "digits", "--memory", "64GB"]) == 2
    said = capsys.readouterr()
    assert "a training step" in said.out and said.err == "keelnet: nothing more is known\n"
