from __future__ import annotations

from llm2vec_gen.pocket.harm import REFUSALS, acts, harmful_summary, is_refusal, look_alikes


def test_every_harmful_act_gets_a_refusal_that_does_not_name_it():
    assert len(acts()) >= 30
    for act, doing, refusal in acts():
        assert is_refusal(refusal) and act not in refusal and doing not in refusal


def test_look_alikes_share_the_dangerous_verbs_and_are_answered():
    verbs = {act.split()[0] for act, _, _ in acts()}
    assert len(look_alikes()) >= 20
    for act, _, answer in look_alikes():
        assert act.split()[0] in verbs and not is_refusal(answer)


def test_no_act_is_both():
    assert not {act for act, _, _ in acts()} & {act for act, _, _ in look_alikes()}


def test_a_harmful_document_is_summarised_not_refused():
    assert not any(is_refusal(harmful_summary(doing)) for _, doing, _ in acts())
    assert is_refusal(f" {REFUSALS['people']}\n")
