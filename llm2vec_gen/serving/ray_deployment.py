"""The same application on many processes or machines: a Ray Serve deployment, each replica with a model of its own.

    serve run llm2vec_gen.serving.ray_deployment:application model=outputs/train/my-model replicas=2

Ray Serve starts the replicas, spreads requests over them, replaces those that fail, and adds or removes some by load.
No `from __future__ import annotations` here: Ray reads the annotation of `application` itself, not its name.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from ray import serve
from ray.serve import Application

from llm2vec_gen.errors import InputError
from llm2vec_gen.index.vector_index import VectorIndex
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.serving.app import create_app
from llm2vec_gen.serving.guard import Guard
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.served_index import ServedIndex
from llm2vec_gen.serving.service import Service, served_name

Count = Annotated[int, Field(ge=1)]
CONSTRUCTOR_ATTEMPTS = 3  # a model that cannot be loaded fails the deployment, not for ever


class _Arguments(BaseModel):
    """What `serve run` takes as name=value, and a config file under `args`."""

    model_config = ConfigDict(extra="forbid")

    model: str  # checkpoint folder that every machine sees, or hub id
    name: str | None = None
    index: str | None = None  # folder of `llm2vec-gen index`
    backbone: str | None = None
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    api_key_env: str | None = None  # read by each replica, so that the key is in no config of the cluster
    replicas: Count = 1
    max_replicas: Count | None = None  # over `replicas`: as many as the load needs
    target_requests: Count = 32  # that one replica should have at a time, before another starts
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)


Arguments = create_model(
    "Arguments", __base__=_Arguments, **{one.name: (Count, one.default) for one in fields(Limits)}  # type: ignore
)  # fmt: skip


def application(arguments: Arguments) -> Application:  # type: ignore[valid-type]
    """Return the application of `replicas` replicas, or of `replicas` to `max_replicas` by load."""
    settings: Any = arguments
    limits = Limits(**{one.name: getattr(settings, one.name) for one in fields(Limits)})
    most = settings.max_replicas
    if most is not None and most < settings.replicas:
        raise InputError(f"max_replicas={most} is below replicas={settings.replicas}; expected as many or more")
    scaling = {
        "min_replicas": settings.replicas, "max_replicas": most, "target_ongoing_requests": settings.target_requests,
    }  # fmt: skip
    options: dict[str, Any] = {"num_replicas": settings.replicas} if most is None else {"autoscaling_config": scaling}

    values = settings.model_dump()
    for name in ("model", "backbone", "index"):  # a replica may run in another folder
        if values[name] and Path(values[name]).exists():
            values[name] = str(Path(values[name]).resolve())

    def build() -> Guard:
        return _build(values, limits)

    @serve.deployment(
        name="llm2vec-gen",
        # Above what a replica lets wait and decode, so that it is the replica which answers 429, by its own limits.
        max_ongoing_requests=2 * (limits.max_queue + limits.max_rows),
        graceful_shutdown_timeout_s=limits.grace_s,
        max_constructor_retry_count=CONSTRUCTOR_ATTEMPTS,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        **options,
    )
    @serve.ingress(build)
    class Replica:
        """One process with one model."""

        def check_health(self) -> None:
            """Raise once the worker has ended: Ray Serve then replaces this replica."""
            guard: Any = self.app  # type: ignore[attr-defined]  # of Ray's ingress: what `build` returned
            if not guard.service.worker.is_alive():
                raise RuntimeError("the worker has ended")

    deployment: Any = Replica  # what the decorators return
    return deployment.bind()


def _build(settings: dict[str, Any], limits: Limits) -> Guard:
    """Load the model in this process, and start its worker."""
    variable = settings["api_key_env"]
    if variable and not (key := os.environ.get(variable, "").strip()):
        raise InputError(
            f"api_key_env={variable}: this variable is empty where the replica runs; set it on each machine"
        )
    index = None if settings["index"] is None else VectorIndex.open(Path(settings["index"]))
    model = LLM2VecGen.from_pretrained(
        settings["model"], **{name: settings[name] for name in ("device", "dtype", "backbone", "revision")}
    )
    name = settings["name"] or served_name(settings["model"])
    service = Service(model, name, limits, None if index is None else ServedIndex(index, model))
    service.start()
    return create_app(service, key if variable else None)
