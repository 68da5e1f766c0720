import itertools

import torch

from hvd_dqn.common.seeding import (
    Stream,
    derived_seed,
    generator,
    network_initialisation,
    restore_generator,
)


def test_streams_differ_between_ranks_and_uses_and_repeat():
    keys = list(itertools.product((0, 1), range(3), Stream))
    draws = {key: generator(*key).integers(2**62) for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert draws == {key: generator(*key).integers(2**62) for key in keys}


def test_neighbouring_seeds_and_ranks_do_not_collide():
    # seed 0 on rank 1 is not seed 1 on rank 0: the mistake of adding the rank to the seed
    assert generator(0, 1, Stream.ENV).integers(2**62) != generator(1, 0, Stream.ENV).integers(
        2**62
    )


def test_a_stream_continues_from_its_saved_state():
    stream, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    restore_generator(other, stream.get_state())
    assert torch.equal(torch.rand(3, generator=stream), torch.rand(3, generator=other))
    of_a_gpu = torch.zeros(16, dtype=torch.uint8)
    restore_generator(other, of_a_gpu)
    assert torch.equal(torch.rand(3, generator=stream), torch.rand(3, generator=other))


def test_derived_seeds_are_31_bit_and_distinct():
    seeds = {
        derived_seed(0, rank, Stream.ENV, copy, k)
        for rank in range(4)
        for copy in range(8)
        for k in range(50)
    }
    assert len(seeds) == 4 * 8 * 50
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_network_initialisation_repeats_and_leaves_torchs_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with network_initialisation(3):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with network_initialisation(3):
        assert torch.equal(torch.rand(3), first)
