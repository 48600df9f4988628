"""The services that are compared: what each installs, and how it is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from sysconfig import get_config_var

ROOT = Path(__file__).resolve().parents[2]
SERVERS = Path(__file__).parent / "servers"
MODEL = ROOT / "model_store/default"


@dataclass(frozen=True, slots=True)
class Peer:
    """A service in a separate environment.

    `packages` are what pip installs beside torch; the first one names the version. `command` begins with a
    program of the environment; PORT and MODEL in it are replaced. `form` is the shape of its requests and
    answers in load.js.
    """

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    path: str = "/predict"
    form: str = "predictions"
    engine: str = "torch f32"
    env: dict[str, str] = field(default_factory=dict)

    def words(self, folder: Path, port: int) -> list[str]:
        """The command in an environment below `folder`."""
        program, *rest = self.command
        values = {"PORT": str(port), "MODEL": str(MODEL)}
        return [str(folder / self.name / "bin" / program), *(values.get(word, word) for word in rest)]


TRANSFORMERS = ("transformers", "numpy")
PEERS = (
    Peer(
        "plain",
        ("fastapi", "uvicorn[standard]", *TRANSFORMERS),
        ("uvicorn", "plain:app", "--port", "PORT", "--log-level", "warning", "--no-access-log"),
    ),
    Peer(
        "mosec",
        ("mosec", *TRANSFORMERS),
        (
            *(
                "python",
                "serve_mosec.py",
                "--address",
                "127.0.0.1",
                "--port",
                "PORT",
                "--log-level",
                "warning",
            ),
            # Milliseconds: the usual 3 s end every request of a loaded machine.
            *("--timeout", "60000"),
        ),
        path="/inference",
    ),
    Peer("litserve", ("litserve", *TRANSFORMERS), ("python", "serve_litserve.py", "PORT")),
    Peer(
        "bentoml",
        ("bentoml", *TRANSFORMERS),
        ("bentoml", "serve", "serve_bentoml:Classify", "--host", "127.0.0.1", "--port", "PORT"),
        form="list",
        env={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "ray",
        ("ray[serve]", *TRANSFORMERS),
        ("python", "serve_ray.py", "PORT"),
        env={"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Peer(
        "triton",
        # Its release needs numpy 1.
        ("nvidia-pytriton", "transformers"),
        ("python", "serve_triton.py", "PORT"),
        path="/v2/models/classify/infer",
        form="triton",
        # Triton loads the library of Python, and could find that of another release elsewhere.
        env={"LD_LIBRARY_PATH": get_config_var("LIBDIR")},
    ),
    Peer(
        "infinity",
        # It imports optimum.bettertransformer, which optimum 2 lacks and which refuses transformers 4.49; its
        # command line breaks with click 8.2.
        ("infinity-emb[server,torch]", "optimum<2", "transformers<4.49", "click<8.2"),
        (
            *("infinity_emb", "v2", "--model-id", "MODEL", "--served-model-name", "default"),
            *("--engine", "torch", "--device", "cpu", "--dtype", "float32"),
            # By default it compiles the model, again for each shape, while requests wait.
            *("--no-compile", "--log-level", "warning", "--host", "127.0.0.1", "--port", "PORT"),
        ),
        path="/classify",
        form="infinity",
        env={"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
    ),
)

# What a reader may miss, and why it is not measured.
NOT_INSTALLED = {
    "text-embeddings-inference": "1.9.4 is not a Python package; container images, or built from Rust",
    "vllm": "its package requires the libraries of CUDA",
    "TensorRT-LLM": "for NVIDIA cards only; its list of classifiers has BERT, but not DistilBERT",
    "ort-server": "Lemonade's, 0.4 is not a Python package; archives of programs, or built from C++ and Rust",
    "encoderfile": "0.7.1 needs Python 3.13, on Linux glibc 2.38, and downloads the program for the model",
}
