"""The standard views over all trained models under paths.outputs: losses, loss ablation, scale, safety, curves.

python experiments/dashboard.py [overrides]        one page, <paths.outputs>/dashboard/index.html
With logger=wandb also workspace.json, wandb's definition of the same views; saved in wandb unless it is offline.
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("dashboard")
