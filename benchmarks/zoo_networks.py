"""The networks of the zoo: the smallest of each of timm's files, and of families within one, under 30 M parameters.

Families whose smallest member is larger are built with fewer and narrower blocks: `OPTIONS`.
"""

from __future__ import annotations

from typing import Any

_NAMES = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet26t lambda_resnet26t botnet26t_256",
    "byobnet": "repvgg_a0 mobileone_s1 gernet_s resnext26ts gcresnext26ts bat_resnext26ts regnetz_b16",
    "cait": "cait_xxs24_224", "coat": "coat_tiny", "convit": "convit_tiny", "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto convnext_zepto_rms convnextv2_atto", "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s cspresnet50",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_distilled_patch16_224", "densenet": "densenet121 densenetblur121d", "dla": "dla46x_c",
    "dpn": "dpn48b", "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_lite0 tinynet_e mobilenetv2_035 mnasnet_small mixnet_s gc_efficientnetv2_rw_t",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224 vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m_enc",
    "ghostnet": "ghostnet_050 ghostnetv3_050", "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224", "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_v3": "inception_v3", "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s levit_conv_128s", "lowformer": "lowformer_b0", "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256 coatnet_pico_rw_224 coatnext_nano_rw_224",
    "metaformer": "poolformer_s12 caformer_s18", "mlp_mixer": "gmlp_ti16_224 mixer_s16_224 resmlp_12_224",
    "mobilenetv3": "mobilenetv3_small_050 lcnet_035 fbnetv3_b", "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs mobilevitv2_050", "mvitv2": "mvitv2_tiny", "naflexvit": "naflexvit_base_patch16_gap",
    "nest": "nest_tiny", "nextvit": "nextvit_small", "nfnet": "nf_regnet_b0 eca_nfnet_l0 nf_resnet26",
    "pit": "pit_ti_224", "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002 regnety_002 regnetz_005", "repghost": "repghostnet_050", "repvit": "repvit_m1",
    "res2net": "res2next50", "resnest": "resnest14d", "resnet": "resnet10t seresnet18 ecaresnet26t resnetaa34d",
    "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42", "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s", "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256", "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_patch16_224", "tresnet": "tresnet_m", "twins": "twins_svt_small",
    "visformer": "visformer_tiny", "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224", "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224", "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception", "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p16_224",
}  # fmt: skip
NETWORKS: dict[str, str] = {
    name: family for family, names in sorted(_NAMES.items()) for name in names.split()
}
"""Network → timm's file that it comes from."""

_SMALL: dict[str, Any] = {"embed_dim": 192, "depth": 4, "num_heads": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": _SMALL,
    "naflexvit_base_patch16_gap": _SMALL,
    "deepseek_vit_412m": _SMALL,
    "gemma4_vit_167m_enc": _SMALL,
    "qwen3_vit_88m": _SMALL,
    "samvit_base_patch16_224": _SMALL,
}
