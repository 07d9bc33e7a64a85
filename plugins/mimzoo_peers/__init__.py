"""Importers of other projects' checkpoints: MONAI, MIM-Med3D, SelfMedMAE, nnssl, VoCo, SuPreM."""

from mimzoo.specs import ImporterSpec, hookimpl
from mimzoo_peers.args import (
    PrimusImport,
    ResEncImport,
    SwinImport,
    SwinSegmenterImport,
    UnetrImport,
    VitImport,
    VocoImport,
)

SWIN_UNETR = "Hatamizadeh et al. 2022, arXiv 2201.01266"
OPENMIND = "Wald et al. 2024, arXiv 2412.17041"
CHEN = "Chen et al. 2022, arXiv 2204.11716"


@hookimpl
def mimzoo_importers() -> list[ImporterSpec]:
    """Return the importers, each named after the format that it reads."""
    return [*_monai(), *_mim_med3d(), *_nnssl(), _selfmedmae(), _voco(), _suprem()]


def _monai() -> list[ImporterSpec]:
    return [
        ImporterSpec(
            name="monai-swinvit",
            build="mimzoo_peers.swin:read_swinvit",
            args=SwinImport,
            summary="Encoder of MONAI's Swin UNETR, pretrained without labels (`model_swinvit.pt`).",
            source="Tang et al. 2022, arXiv 2111.14791",
            licence="Apache-2.0",
            url="https://github.com/Project-MONAI/research-contributions/tree/main/SwinUNETR/Pretrain",
        ),
        ImporterSpec(
            name="monai-swinunetr",
            build="mimzoo_peers.swin:read_swinunetr",
            args=SwinSegmenterImport,
            summary="Segmenter: MONAI's whole Swin UNETR, v1 or v2.",
            source=SWIN_UNETR,
            licence="Apache-2.0",
            url="https://github.com/Project-MONAI/research-contributions/tree/main/SwinUNETR/BTCV",
        ),
        ImporterSpec(
            name="monai-vit",
            build="mimzoo_peers.vit:read_vit",
            args=VitImport,
            summary="Encoder: MONAI's ViT, or that of its ViTAutoEnc, with convolutions or perceptrons on patches.",
            source="Dosovitskiy et al. 2021, arXiv 2010.11929",
        ),
        ImporterSpec(
            name="monai-unetr",
            build="mimzoo_peers.vit:read_unetr",
            args=UnetrImport,
            summary="Segmenter: MONAI's whole UNETR.",
            source="Hatamizadeh et al. 2022, arXiv 2103.10504",
            licence="Apache-2.0",
            url="https://github.com/Project-MONAI/research-contributions/tree/main/UNETR/BTCV",
        ),
        ImporterSpec(
            name="monai-mae",
            build="mimzoo_peers.vit:read_mae",
            args=VitImport,
            summary="Encoder of MONAI's MaskedAutoEncoderViT.",
            source="He et al. 2022, arXiv 2111.06377",
        ),
    ]


def _mim_med3d() -> list[ImporterSpec]:
    url = "https://github.com/chenz53/MIM-Med3D"
    return [
        ImporterSpec(
            name="mim-med3d-mae",
            build="mimzoo_peers.vit:read_mim_med3d",
            args=VitImport,
            summary="Encoder of a MIM-Med3D masked autoencoder.",
            source=CHEN,
            republish=False,
            url=url,
        ),
        ImporterSpec(
            name="mim-med3d-simmim",
            build="mimzoo_peers.vit:read_mim_med3d",
            args=VitImport,
            summary="Encoder of MIM-Med3D's SimMIM on a ViT.",
            source=CHEN,
            republish=False,
            url=url,
        ),
    ]


def _nnssl() -> list[ImporterSpec]:
    url = "https://github.com/MIC-DKFZ/nnssl"
    return [
        ImporterSpec(
            name="nnssl-resenc",
            build="mimzoo_peers.nnssl_resenc:read_resenc",
            args=ResEncImport,
            summary="Encoder of nnssl's ResEnc U-Nets, turned to X, Y and Z as the adaptation plan in the file says.",
            source=OPENMIND,
            licence="CC-BY-4.0",
            url=url,
        ),
        ImporterSpec(
            name="nnssl-primus",
            build="mimzoo_peers.nnssl_primus:read_primus",
            args=PrimusImport,
            summary="Encoder of nnssl's Primus, turned to X, Y and Z as the adaptation plan in the file says.",
            source=OPENMIND,
            licence="CC-BY-4.0",
            url=url,
        ),
    ]


def _selfmedmae() -> ImporterSpec:
    return ImporterSpec(
        name="selfmedmae",
        build="mimzoo_peers.vit:read_selfmedmae",
        args=VitImport,
        summary="Encoder of SelfMedMAE's masked autoencoder.",
        source="Zhou et al. 2023, arXiv 2203.05573",
        url="https://github.com/cvlab-stonybrook/SelfMedMAE",
    )


def _voco() -> ImporterSpec:
    return ImporterSpec(
        name="voco",
        build="mimzoo_peers.swin:read_voco",
        args=VocoImport,
        summary="Encoder of VoCo's Swin UNETR v2, pretrained without labels, or segmenter (VoComni).",
        source="Wu et al. 2024, arXiv 2410.09890",
        republish=False,
        url="https://github.com/Luffy03/Large-Scale-Medical",
    )


def _suprem() -> ImporterSpec:
    return ImporterSpec(
        name="suprem",
        build="mimzoo_peers.swin:read_suprem",
        args=SwinImport,
        summary="Encoder of SuPreM's Swin UNETR, for use on this machine alone.",
        source="Li et al. 2024, arXiv 2501.11253",
        licence="CC-BY-NC-ND-4.0",
        republish=False,
        url="https://github.com/MrGiovanni/SuPreM",
    )
