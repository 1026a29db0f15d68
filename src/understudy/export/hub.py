"""Upload of exported students to Hugging Face's hub; wants the extra `hub`."""

from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.students import folder as layout
from understudy.teachers.onnx_network import require


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Uploads an exported student, the files it lists and no others; returns its address.

    Args:
        folder: What `export` made; one that is not whole is refused.
        repo: "owner/name"; made if it is not there.
        private: Whether a new one is private.

    Raises:
        UnderstudyError: An altered folder, the extra is not installed, or the hub refuses.
    """
    exported = layout.read(folder)
    layout.load(folder)
    hub = require("huggingface_hub", "hub")
    names = [layout.CONFIG, layout.CARD, *exported.files]
    try:
        api = hub.HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=names,
            commit_message=f"understudy {exported.understudy}: run {exported.trained['run'][:12]}",
        )
    except Exception as error:  # the client's and the network's errors have no base in common
        raise UnderstudyError(f"{repo}: the hub takes nothing: {_first_line(error)}") from error
    return str(address)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
