"""The instructions of checkpoints that record none (published ones): our generative wording.

The same texts as conf/instruction/generative.yaml, which runs take by default; a test compares the two.
"""

from __future__ import annotations

from typing import Any

GENERATIVE: dict[str, Any] = {
    "documents": "Give the main content of this passage in a few sentences:",
    "categories": {
        "retrieval": "Write a short passage that answers this:",
        "reranking": "Write a short passage that answers this:",
        "clustering": "Name the topic of this text:",
        "pair_classification": "Say in your own words what this text means:",
        "classification": "Name the category this text belongs to:",
        "sts": "Say in your own words what this text means:",
        "summarization": "Give the main points of this summary:",
        "bitext_mining": "Say in English what this text means:",
        "harmful_retrieval": "Respond to this request:",
        "benign_retrieval": "Respond to this request:",
        "reasoning": "Think about what is needed to solve this, then write the passage that explains it:",
    },
    "tasks": {
        "ArguAna": "Write the strongest counterargument to this argument:",
        "ClimateFEVERHardNegatives": "Say whether this claim about the climate is true, and what the evidence is:",
        "CQADupstackGamingRetrieval": "Answer this question about video games:",
        "CQADupstackUnixRetrieval": "Answer this question about Unix and Linux:",
        "FEVERHardNegatives": "Say whether this claim is true, and what the evidence is:",
        "FiQA2018": "Answer this question about money and finance:",
        "HotpotQAHardNegatives": "Answer this question, naming every fact that leads to the answer:",
        "SCIDOCS": "Write the abstract of a paper that a paper with this title would cite:",
        "Touche2020Retrieval.v3": "Give arguments on both sides of this question:",
        "TRECCOVID": "Answer this question about COVID-19 from the research:",
        "AskUbuntuDupQuestions": "Say what problem this Ubuntu user has and how it is solved:",
        "MindSmallReranking": "Say which news a reader of this headline would read next:",
        "ArXivHierarchicalClusteringP2P": "Name the field and subfield of this arXiv paper:",
        "ArXivHierarchicalClusteringS2S": "Name the field and subfield of an arXiv paper with this title:",
        "BiorxivClusteringP2P.v2": "Name the area of biology this paper belongs to:",
        "MedrxivClusteringP2P.v2": "Name the area of medicine this paper belongs to:",
        "MedrxivClusteringS2S.v2": "Name the area of medicine of a paper with this title:",
        "StackExchangeClustering.v2": "Name the Stack Exchange site this question was asked on:",
        "StackExchangeClusteringP2P.v2": "Name the Stack Exchange site this post was written on:",
        "TwentyNewsgroupsClustering.v2": "Name the newsgroup topic of this subject line:",
        "SprintDuplicateQuestions": "Say what this customer wants to know, in other words:",
        "TwitterSemEval2015": "Say in plain words what this tweet means:",
        "TwitterURLCorpus": "Say in plain words which news this tweet reports:",
        "AmazonCounterfactualClassification": "Say whether this review describes something that did not happen:",
        "Banking77Classification": "Name what this bank customer wants:",
        "ImdbClassification": "Say whether this movie review is positive or negative:",
        "MTOPDomainClassification": "Name the domain of this voice command:",
        "MassiveIntentClassification": "Name the intent of this voice command:",
        "MassiveScenarioClassification": "Name the scenario of this voice command:",
        "ToxicConversationsClassification": "Say whether this comment is toxic:",
        "TweetSentimentExtractionClassification": "Say whether this tweet is positive, negative or neutral:",
        "BIOSSES": "Say in other words what this sentence from a biomedical paper reports:",
        "SICK-R": "Say in other words what happens in this scene:",
        "STS12": "Say in other words what this sentence means:",
        "STS13": "Say in other words what this headline or definition means:",
        "STS14": "Say in other words what this headline, post or caption means:",
        "STS15": "Say in other words what this answer, headline or caption means:",
        "STS17": "Say in other words what is going on in this sentence:",
        "STS22.v2": "Say what this news article reports, with place, time and people:",
        "STSBenchmark": "Say in other words what this caption, headline or post means:",
        "SummEvalSummarization.v2": "Give the main points of this summary of a news article:",
        "AdvBench-IR": "Respond to this request:",
        "AdvBench-IR-benign": "Respond to this request:",
        "bright_biology": "Explain the biology that answers this question:",
        "bright_earth_science": "Explain the earth science that answers this question:",
        "bright_economics": "Explain the economics that answers this question:",
        "bright_psychology": "Explain the psychology that answers this question:",
        "bright_robotics": (
            "Explain what solves this robotics problem, with the part of the documentation that says so:"
        ),
        "bright_stackoverflow": (
            "Explain what solves this programming problem, with the part of the documentation that says so:"
        ),
        "bright_sustainable_living": "Explain what is known about this question of sustainable living:",
        "bright_pony": "Describe the syntax of the Pony language that this task needs:",
        "bright_leetcode": "Describe the algorithm that solves this, and another problem that it solves:",
        "bright_aops": "Name the method that solves this competition problem, and pose another one that it solves:",
        "bright_theoremqa_theorems": "State the theorem that solves this problem:",
        "bright_theoremqa_questions": "Name the theorem that solves this problem, and solve another one with it:",
        "BrightRetrieval": "Think about what is needed to solve this, then write the passage that explains it:",
    },
}
