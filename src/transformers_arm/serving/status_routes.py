"""What there is, and how it does: `/v1/models`, `/health` and `/metrics`."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .streams import Served

router = APIRouter()


def model_of(served: Served) -> dict:
    about = served.engine.about
    return {
        "id": about.model,
        "object": "model",
        "created": 0,
        "owned_by": "transformers-arm",
        "patch_size": about.patch_size,
        "size": "x".join(map(str, about.size)),
        "max_side": about.max_side,
        "max_tokens": about.max_tokens,
        "tasks": sorted(about.tasks),
    }


@router.get("/v1/models")
async def models(request: Request) -> dict:
    return {"object": "list", "data": [model_of(Served.of(request))]}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict:
    served = Served.of(request)
    served.check_model(name)
    return model_of(served)


@router.api_route("/health", methods=["GET", "HEAD"])
async def health() -> dict:
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    registry = Served.of(request).metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
