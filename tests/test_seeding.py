"""Seeds by purpose."""

from masktas.seeding import seed_for


def test_a_seed_depends_on_the_seed_and_on_every_part_of_the_key():
    keys = [(), ("mask",), ("mask", 0), ("mask", 1), ("crop", 0), ("mask", 0, 1), (1, "mask")]
    seeds = [seed_for(seed, *key) for seed in (0, 1) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [seed_for(seed, *key) for seed in (0, 1) for key in keys]


def test_a_seed_fits_every_generator():
    assert all(0 <= seed_for(0, "step", step) < 2**63 for step in range(1000))
    assert max(seed_for(0, "step", step) for step in range(1000)) > 2**62


def test_seeds_never_change_between_versions():
    # Literals: a checkpoint written by an older masktas must go on as it would have.
    assert seed_for(0, "mask", 7) == 528_659_112_224_811_220
