"""llm2vec-gen index build|add|search|explain|info: a corpus as a searchable folder, without Hydra."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.cli.arguments import (
    Command,
    add_loading,
    add_model,
    add_reading,
    add_texts,
    load_model,
    positive,
)
from llm2vec_gen.cli.reading import read_texts
from llm2vec_gen.cli.writing import check_results, results
from llm2vec_gen.errors import InputError
from llm2vec_gen.progress import track

if TYPE_CHECKING:
    from llm2vec_gen.index.corpus import LocalCorpus
    from llm2vec_gen.index.explain import Explained, Explanation
    from llm2vec_gen.index.vector_index import VectorIndex
    from llm2vec_gen.models.expander import Expander

COMMIT = 1024  # documents that are written in one piece, and that a kill can cost at most


def build(options: argparse.Namespace) -> None:
    """Embed a corpus into a new index; the same command continues a build that was stopped."""
    from llm2vec_gen.index.building import DocumentEncoder, IndexSettings, prepare

    instructions = (options.document_instruction, options.instruction)
    settings = IndexSettings(options.soft_prompts, not options.no_text, options.ann, *instructions)
    corpus = _corpus(options)
    encoder = DocumentEncoder(load_model(options), settings, _origin(options))
    workers = _worker(encoder)
    _fill(prepare(options.output, workers, corpus), workers, corpus, "skip")


def add(options: argparse.Namespace) -> None:
    """Add a corpus to an index."""
    from llm2vec_gen.index.building import DocumentEncoder, IndexSettings, check_new
    from llm2vec_gen.index.vector_index import VectorIndex

    index, corpus = VectorIndex.open(options.index), _corpus(options)
    header = index.header
    if corpus.metadata != header.metadata:
        has, given = (_columns(metadata) or "none" for metadata in (header.metadata, corpus.metadata))
        raise InputError(
            f"{options.index} has the metadata {has}, this command gives {given}; expected --metadata {has}"
        )
    if options.existing == "error":
        check_new(index, corpus, COMMIT)
    instructions = (header.instructions["document"], header.instructions["query"])
    settings = IndexSettings(header.soft_prompts, header.keeps_text, header.ann, *instructions)
    encoder = DocumentEncoder(encoder_of(index, options), settings, header.encoder, _other_fingerprint(index))
    header.check_fingerprint(encoder.header.fingerprint, index.folder)
    _fill(index, _worker(encoder), corpus, options.existing)


def _columns(metadata: dict[str, str]) -> str:
    return " ".join(f"{name}:{kind}" for name, kind in metadata.items())


def _fill(index: VectorIndex, workers: Any, corpus: LocalCorpus, existing: str) -> None:
    from llm2vec_gen.index.building import add_documents, ranges_of

    with track("index", None, "documents"):
        for _ in add_documents(index, workers, ranges_of(corpus, COMMIT), existing):
            pass
    index.finish({"path": str(corpus), **corpus.report})
    report = corpus.report
    print(f"{report['read']} rows read, {report['broken']} broken, {report['blank']} blank; "
          f"{index.written} documents written", file=sys.stderr)  # fmt: skip
    print(f"{index.folder}  {len(index)} documents")


def search(options: argparse.Namespace) -> None:
    """Print, or write as jsonl or parquet, the documents nearest to each query."""
    from llm2vec_gen.index.vector_index import VectorIndex

    check_results(options.output, (".jsonl", ".parquet"))
    index = VectorIndex.open(options.index)
    if options.where is not None:
        from llm2vec_gen.index.filters import to_sql

        to_sql(options.where, index.columns)  # reported before a model is loaded
    queries = read_texts(options)
    encoder = encoder_of(index, options)
    expander = None if options.expander is None else _expander_of(index, options, encoder)
    instruction = index.header.instructions["query"] if options.instruction is None else options.instruction
    chosen = {"top": options.top, "where": options.where, "exact": options.exact, "nprobes": options.nprobes}
    with results(options.output, _printed) as writer, track("search", queries.total, "queries"):
        for chunk in queries.chunks():
            vectors = encoder.encode([row.text for row in chunk], instruction=instruction or None).numpy()
            for query, hits in zip(chunk, index.search(vectors, **chosen), strict=True):
                rows = [
                    {"query_id": query.id, "query": query.text, "rank": rank, "score": hit.score, "id": hit.id,
                     "text": hit.text, "source": hit.source, **hit.metadata}
                    for rank, hit in enumerate(hits, start=1)
                ]  # fmt: skip
                if rows and expander is not None:
                    prompts = expander.expand(index.vectors_of([hit.id for hit in hits]))
                    decoded = encoder.decode(prompts, max_new_tokens=options.max_new_tokens)
                    rows = [row | {"decoded": " ".join(text.split())} for row, text in zip(rows, decoded, strict=True)]
                if rows:
                    writer.write(rows)
                else:
                    print(f"{query.text}: no document fits the filter", file=sys.stderr)


def explain(options: argparse.Namespace) -> None:
    """Print, or write as jsonl, why the best documents of each query were found."""
    from dataclasses import asdict

    from llm2vec_gen.index.explain import Explainer
    from llm2vec_gen.index.vector_index import VectorIndex
    from llm2vec_gen.interpreters.comparison import shared_words
    from llm2vec_gen.interpreters.logit_lens import LogitLens

    check_results(options.output, (".jsonl",))
    index = VectorIndex.open(options.index)
    if options.reencode and options.expander is not None:
        raise InputError("--reencode and --expander are two sources of soft prompts; choose one")
    source = "reencode" if options.reencode else "stored" if options.expander is None else "expander"
    if source == "stored":
        index.soft_prompts_of([])  # an index without any is reported before a model is loaded
    queries = read_texts(options)
    baseline = None
    if options.baseline is not None:
        other = VectorIndex.open(options.baseline)
        baseline = (other, encoder_of(other, options, own=False))
    model = encoder_of(index, options)
    expand = None if options.expander is None else _expander_of(index, options, model).expand
    explainer = Explainer(model, index, LogitLens(top=options.words), shared_words, source, expand, baseline,
                          options.max_new_tokens)  # fmt: skip
    with results(options.output, lambda row: row["shown"]) as writer:
        for query in queries:
            found = explainer.explain(query.text, options.instruction, options.top, options.where)
            writer.write([{"shown": explained(found)} if options.output is None else asdict(found)])


def info(options: argparse.Namespace) -> None:
    """Print what an index is."""
    from llm2vec_gen.index.vector_index import VectorIndex

    print(json.dumps(VectorIndex.open(options.index, unfinished=True).info(), indent=1, ensure_ascii=False))


def explained(found: Explanation) -> str:
    """Return an explanation as text."""
    lines = [found.query, f"  your query was read as: {found.gist}", f"  its words: {' '.join(found.words)}"]
    for rank, row in enumerate(found.hits, start=1):
        lines += _explained_hit(rank, row, bool(found.baseline))
    if found.baseline:
        lines.append("  the baseline finds: " + ", ".join(f"{hit.id} ({hit.score:.3f})" for hit in found.baseline))
    return "\n".join(lines)


def _explained_hit(rank: int, row: Explained, compared: bool) -> list[str]:
    cosines = " ".join(f"{value:.2f}" for value in row.token_cosines)
    place = f"rank {row.baseline_rank} of the baseline" if row.baseline_rank else "not among the baseline's"
    what = f"{row.hit.id}  {row.hit.text or row.hit.source}" + (f"  ({place})" if compared else "")
    return [
        f"  {rank}. {row.hit.score:.3f}  {what}",
        f"     this passage was read as: {row.gist}",
        f"     words of both: {' '.join(row.shared) or '(none)'}",
        f"     cosine of each token: {cosines}",
    ]  # fmt: skip


def _printed(row: dict[str, Any]) -> str:
    title = [row["query"]] if row["rank"] == 1 else []
    read = [f"         read as: {row['decoded']}"] if "decoded" in row else []
    return "\n".join([*title, f"  {row['score']:.3f}  {row['id']}  {row['text'] or row['source']}", *read])


# ---- what the commands are given


def _corpus(options: argparse.Namespace) -> LocalCorpus:
    from llm2vec_gen.index.corpus import LocalCorpus

    return LocalCorpus(str(options.corpus), options.column, options.id_column, options.title_column,
                       options.metadata, options.encoding, options.delimiter)  # fmt: skip


def _origin(options: argparse.Namespace) -> dict[str, Any]:
    """How to load the model again: local paths in full, since an index is used from anywhere."""
    path = Path(options.model)
    return {
        "path": str(path.absolute()) if path.exists() else options.model,
        "revision": options.revision,
        "backbone": options.backbone,
        "dtype": options.dtype,
    }


def _worker(encoder: Any) -> Any:
    from llm2vec_gen.executors.local import LocalWorkers

    return LocalWorkers(encoder, "embed")


def encoder_of(index: VectorIndex, options: argparse.Namespace, own: bool = True) -> Any:
    """Return the encoder that built an index, checked to be the same; --model replaces where it lies."""
    header = index.header
    if "_target_" in header.encoder:
        from llm2vec_gen import targets
        from llm2vec_gen.index.header import NAME

        targets.check_own(header.encoder, f"{index.folder}/{NAME}")
        return targets.build(header.encoder, "encoder")
    if not own:
        from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

        known = {name: header.encoder.get(name) for name in ("backbone", "dtype", "revision")}
        model = LLM2VecGen.from_pretrained(header.encoder["path"], device=options.device, **known)
    else:
        for name in ("backbone", "dtype", "revision"):
            setattr(options, name, getattr(options, name) or header.encoder.get(name))
        model = load_model(options, options.model or header.encoder["path"])
    header.check_fingerprint(model.fingerprint, index.folder)
    return model


def _expander_of(index: VectorIndex, options: argparse.Namespace, model: Any) -> Expander:
    """Return the expander of --expander, checked to be of the model that built the index."""
    from llm2vec_gen.models.expander import Expander

    if not hasattr(model, "decode"):
        raise InputError(
            f"{index.folder} was built by a {type(model).__name__}, which cannot decode; --expander needs an index of "
            "an LLM2VecGen checkpoint"
        )
    return Expander.load(options.expander, model)


def _other_fingerprint(index: VectorIndex) -> str | None:
    """The fingerprint of an encoder of a config, which has none itself."""
    return index.header.fingerprint if "_target_" in index.header.encoder else None


# ---- arguments


def _index_and_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, help="index folder")
    parser.add_argument("--model", help="checkpoint folder or hub id, if it has moved since the build")
    add_loading(parser)


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", type=Path, help="jsonl, csv, tsv, json, parquet, BEIR folder, text file or folder")
    parser.add_argument("--column", default="text", help="the column with the texts (default: text)")
    parser.add_argument("--id-column", help="the column with the ids (default: _id or id, else file and line)")
    parser.add_argument("--title-column", help="a column that stands before the text (default: title of BEIR)")
    parser.add_argument("--metadata", nargs="+", default=[], metavar="COLUMN[:TYPE]",
                        help="columns to keep for filters; types: text, int, float, bool")  # fmt: skip
    add_reading(parser)


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    _add_corpus(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the index")
    parser.add_argument("--document-instruction",
                        help="stands before every document (default: the model's own; '' for none)")  # fmt: skip
    parser.add_argument("--soft-prompts", default="int8", choices=("none", "fp16", "int8", "pq"),
                        help="how soft prompts are stored, from which hits are decoded (default: int8)")  # fmt: skip
    parser.add_argument("--no-text", action="store_true", help="store file and line of each text instead of the text")
    parser.add_argument("--ann", default="auto", help="auto, none, ivf_flat, ivf_sq, ivf_pq, ivf_rq, ivf_hnsw_sq")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _index_and_model(parser)
    _add_corpus(parser)
    parser.add_argument("--existing", default="error", choices=("skip", "replace", "error"),
                        help="what to do with ids that the index has (default: error)")  # fmt: skip


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    _index_and_model(parser)
    add_texts(parser, "queries")
    parser.add_argument("--top", type=positive, default=5, help="documents per query (default: 5)")
    parser.add_argument("--where", help="filter, e.g. \"year >= 2020 and lang in ('en', 'de')\"")
    parser.add_argument("--exact", action="store_true", help="compare all vectors instead of the ANN index")
    parser.add_argument("--nprobes", type=positive, default=20, help="partitions of the ANN index (default: 20)")
    _add_expander(parser, "decode each hit from its vector")
    parser.add_argument("--max-new-tokens", type=positive, default=32, help="length of each reading (default: 32)")
    parser.add_argument("--output", type=Path, help=".jsonl or .parquet; - is jsonl (default: print)")


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    _index_and_model(parser)
    add_texts(parser, "queries")
    parser.add_argument("--top", type=positive, default=3, help="documents per query (default: 3)")
    parser.add_argument("--where", help="filter, as of search")
    parser.add_argument("--words", type=positive, default=5, help="lens words per compression token (default: 5)")
    parser.add_argument("--max-new-tokens", type=positive, default=32, help="length of each reading (default: 32)")
    parser.add_argument("--reencode", action="store_true", help="embed the texts of hits again, instead of stored soft "
                        "prompts")  # fmt: skip
    _add_expander(parser, "make soft prompts of the vectors of hits, instead of stored ones")
    parser.add_argument("--baseline", type=Path, help="index of the same documents by another encoder")
    parser.add_argument("--output", type=Path, help=".jsonl; - is jsonl (default: print)")


def _add_expander(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--expander", type=Path, help=f"folder of an expander (experiments/expand.py): {what}")


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, help="index folder")


COMMANDS = (
    Command(
        "build", build, _build_arguments,
        "llm2vec-gen index build <model> passages.jsonl --output passages.index --metadata year:int lang",
    ),
    Command("add", add, _add_arguments, "llm2vec-gen index add passages.index more.csv --existing skip"),
    Command(
        "search", search, _search_arguments,
        'llm2vec-gen index search passages.index "capital of peru?" --where "year >= 2020"',
    ),
    Command(
        "explain", explain, _explain_arguments,
        'llm2vec-gen index explain passages.index "capital of peru?" --top 3',
    ),
    Command("info", info, _info_arguments, "llm2vec-gen index info passages.index"),
)  # fmt: skip
