from __future__ import annotations

from llm2vec_gen.generators.base import query_seed
from llm2vec_gen.types import Query


def test_query_seeds_follow_the_id_and_the_generators_seed():
    seeds = [query_seed(seed, Query(f"id{index}", "same text")) for seed in (0, 1) for index in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert query_seed(0, Query("id0", "other text")) == seeds[0]
