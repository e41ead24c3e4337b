"""The example does what its text says."""

from experiments import bring_your_own


def test_regions_that_differ_are_served_by_their_own_models():
    accuracy = bring_your_own.flax_model()
    assert accuracy["PM"] > accuracy["GM"] + 0.1
    assert accuracy["TM"] > accuracy["GM"]


def test_a_plain_loss_finds_the_sign_of_each_region():
    north, south = bring_your_own.plain_loss()
    assert north > 0.2
    assert south < -0.2
