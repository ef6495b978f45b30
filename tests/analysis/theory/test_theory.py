"""The closed forms against the authors' slides, and r with its interval carried through."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.answer import summary
from analysis.curves.curve import Curve
from analysis.fitting.fit import Fit, fit
from analysis.theory import closed_forms
from analysis.theory.carried import theory
from cbs.errors import InputError
from tests.analysis.simulation import Scenario, curve, simulate
from tests.conftest import command

LSUN, CELEBA = 3_033_042, 162_770
GAN = {"parameters": 3_576_704, "beta1": 0.5, "beta2": 0.999}


def test_the_slides_figures() -> None:
    """Sato & Iiduka (ICML 2023): r = 788.7 from Adam's 2^5 on LSUN, carried over."""
    ratio = 32 / closed_forms.factor("adam", 1e-4, dataset_size=LSUN, **GAN)
    assert ratio == pytest.approx(788.7, abs=0.05)

    def estimated(optimizer: str, lr: float, size: int) -> float:
        return 788.7 * closed_forms.factor(optimizer, lr, dataset_size=size, **GAN)

    found = [
        estimated("adabelief", 3e-4, LSUN),
        estimated("rmsprop", 1e-4, LSUN),
        estimated("adam", 1e-4, CELEBA),
        estimated("adabelief", 5e-4, CELEBA),
        estimated("rmsprop", 3e-4, CELEBA),
    ]
    assert found == pytest.approx([48.0, 126.5, 1.7, 4.3, 20.4], abs=0.05)
    assert [closed_forms.power_of_two(b) for b in found] == [5, 7, 1, 2, 4]


def test_the_slides_biggan() -> None:
    """With Adam's r from 2^8, β1 = 0 and AdaBelief at four times Adam's rate, AdaBelief's b* is 2^9."""
    size = {"parameters": 70_433_795, "dataset_size": 1_281_167, "beta1": 0.0, "beta2": 0.999}
    ratio = 2**8 / closed_forms.factor("adam", 1e-4, **size)
    assert closed_forms.power_of_two(ratio * closed_forms.factor("adabelief", 4e-4, **size)) == 9


@pytest.mark.parametrize(
    ("b", "exponent"), [(1, 0), (1.5, 0), (1.51, 1), (3, 1), (3.1, 2), (48, 5), (48.1, 6), (0.3, 0)]
)
def test_powers_of_two_are_nearest_in_plain_distance_ties_down(b: float, exponent: int) -> None:
    assert closed_forms.power_of_two(b) == exponent


def test_closed_forms_refuse_what_has_none() -> None:
    with pytest.raises(InputError, match="optimizer is 'sgd'"):
        closed_forms.factor("sgd", 1e-4, 1, 1)
    with pytest.raises(InputError, match="beta1 is 1"):
        closed_forms.factor("adam", 1e-4, 1, 1, beta1=1)
    with pytest.raises(InputError, match="lr is 0"):
        closed_forms.factor("adam", 0, 1, 1)


@given(st.floats(1e-6, 1e-2), st.integers(1, 10**9), st.integers(1, 10**8), st.floats(0, 0.99), st.floats(0, 0.9999))
def test_adabeliefs_estimate_is_half_of_adams(lr: float, theta: int, size: int, beta1: float, beta2: float) -> None:
    """√(4Θ) for √Θ, at the same rates."""
    one, other = (closed_forms.factor(name, lr, theta, size, beta1, beta2) for name in ("adam", "adabelief"))
    assert one == pytest.approx(2 * other)


def fitted(optimizer: str, lr: float, dataset_size: int = LSUN, random: int = 1) -> Fit:
    made = simulate(Scenario(3.2, 0.15, 3), np.random.default_rng(random))
    made.optimizer = made.label = optimizer
    made.facts = {**GAN, "lr_generator": lr, "dataset_size": dataset_size}
    return fit(made)


def test_r_is_carried_over_with_its_interval() -> None:
    adam, belief, rms = fitted("adam", 1e-4), fitted("adabelief", 3e-4, random=2), fitted("rmsprop", 1e-4, random=3)
    found = theory([belief, adam, rms])
    assert found is not None
    assert found.source == "Adam"
    known = closed_forms.factor("adam", 1e-4, dataset_size=LSUN, **GAN)
    assert found.measured_ratio == pytest.approx(adam.measured_b_star / known)  # type: ignore[operator]
    assert found.ratio == pytest.approx(adam.b_star / known)  # type: ignore[operator]
    value, (low, high) = found.from_b_star("adabelief")
    scale = closed_forms.factor("adabelief", 3e-4, dataset_size=LSUN, **GAN) / known
    assert value == pytest.approx(adam.b_star * scale)  # type: ignore[operator]
    assert (low, high) == pytest.approx(tuple(end * scale for end in adam.b_star_ci))  # type: ignore[operator]
    assert found.from_measured("adam") == pytest.approx(adam.measured_b_star)
    other = theory([belief, adam, rms], reference="rmsprop")
    assert other is not None
    assert other.from_measured("rmsprop") == pytest.approx(rms.measured_b_star)
    with pytest.raises(InputError, match="reference is 'adm': did you mean adam"):
        theory([adam, rms], reference="adm")


def test_another_data_set_with_the_same_model_is_predicted() -> None:
    """r from LSUN's Adam gives CelebA's estimates: the slides' 1.7 where LSUN's b* is 32."""
    lsun, celeba = fitted("adam", 1e-4), fitted("adam", 1e-4, CELEBA)
    lsun.curve.label, celeba.curve.label = "lsun: Adam", "celeba: Adam"
    found = theory([lsun, celeba])
    assert found is not None
    carried = found.from_measured("celeba: Adam")
    assert carried is not None
    assert lsun.measured_b_star is not None
    assert carried * 32 / lsun.measured_b_star == pytest.approx(1.7, abs=0.05)


def test_r_is_not_carried_to_another_network() -> None:
    one, other = fitted("adam", 1e-4), fitted("rmsprop", 1e-4)
    other.curve.facts["parameters"] = 70_433_795
    found = theory([one, other])
    assert found is not None
    assert found.from_measured("rmsprop") is None


def test_the_table_has_a_b_and_c_under_the_stated_normalisation() -> None:
    adam = fitted("adam", 1e-4)
    table = summary.theories([adam], theory([adam]))
    assert "ε² − C = 1" in table.title
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["A, paper's form"].value == adam.hyperbola.n_inf
    assert row["B, paper's form"].value == adam.hyperbola.b0
    assert f"(2{'²' if adam.measured_b_star == 4 else '³'})" in row["measured b*"].text
    assert row["b* (95 %)"].interval == adam.b_star_ci


def test_an_open_end_stays_open_and_sizes_that_cant_be_told_apart_give_no_r() -> None:
    """N·b falls all the way down to the smallest size; of the two smallest one was stopped early."""
    rows = [(b, s, "reached", math.nan, 1000.0 * (1 + 0.01 * s)) for b in (8, 16, 32, 64) for s in range(3)]
    adam = fit(Curve("adam", "adam", curve(rows).frame, {**GAN, "lr_generator": 1e-4, "dataset_size": LSUN}))
    rms = fit(Curve("rmsprop", "rmsprop", curve(rows).frame, {**GAN, "lr_generator": 1e-4, "dataset_size": LSUN}))
    found = theory([adam, rms])
    assert found is not None
    value, (low, high) = found.from_b_star("rmsprop")
    assert value is not None
    assert low is None
    assert high is not None
    more = [*rows, *[(4, s, "censored", 500, 500) for s in range(3)]]
    adam.curve.frame = curve(more).frame
    stopped = theory([fit(adam.curve), rms], reference="adam")
    assert stopped is not None
    assert stopped.measured_ratio is None
    assert stopped.from_measured("rmsprop") is None


def test_estimate_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["estimate", "--lr", "1e-4", "--params", "3576704", "--dataset-size", "3033042", "--json"]
    adam = ["--optimizer", "adam", "--beta1", "0.5", "--beta2", "0.999", "--b-star", "32"]
    done = command(*arguments, *adam, cwd=tmp_path, module="analysis")
    assert json.loads(done.stdout)["ratio"] == pytest.approx(788.7, abs=0.05)
    done = command(*arguments, *adam, "--ci", "16", "64", cwd=tmp_path, module="analysis")
    assert json.loads(done.stdout)["ratio_ci"] == pytest.approx([394.35, 1577.4], abs=0.1)
    done = command(*arguments, "--optimizer", "rmsprop", "--ratio", "788.7", cwd=tmp_path, module="analysis")
    assert json.loads(done.stdout)["b_star"] == pytest.approx(126.5, abs=0.05)
    done = command(*arguments, "--optimizer", "adan", "--ratio", "788.7", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "did you mean adam?" in done.stderr
    done = command(*arguments, *adam, "--ci", "33", "64", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "ci is 33 64: it must hold the value 32" in done.stderr
