"""DeepLab networks: two heads (MRNet), one summed head (DeepLab-V2), an encoder-decoder (DeepLab-V3+)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from networks.heads import DecoderHead, DecoderOptions, HeadOptions, PyramidHead, SummedHead
from networks.segmentation import Backbone, SegmentationNetwork
from networks.spec import NetworkSpec, SegmentationOutput


class DeepLabTwoHead(SegmentationNetwork):
    """A main head on the last two backbone stages together and an auxiliary head on the second-last alone.

    Source: Zheng & Yang, IJCAI 2020 and IJCV 2021; `layer5` (auxiliary) and `layer6` (main) are the names of
    the authors' released code.
    """

    has_auxiliary_head = True

    def __init__(self, spec: NetworkSpec, backbone: Backbone, options: HeadOptions) -> None:
        super().__init__(spec, backbone)
        second_last, last = backbone.channels[-2:]
        self.layer5 = PyramidHead(second_last, spec.num_classes, options)
        self.layer6 = PyramidHead(last + second_last, spec.num_classes, options)
        self.feature_channels = options.bottleneck_channels

    def decode(self, features: Sequence[Tensor]) -> SegmentationOutput:
        second_last, last = features[-2:]
        auxiliary_logits = self.run_head("layer5", second_last).logits
        main = self.run_head("layer6", torch.cat([last, second_last], dim=1))
        return SegmentationOutput(main.logits, auxiliary_logits, main.features)


class DeepLabSummed(SegmentationNetwork):
    """DeepLab-V2: one head of summed dilated classifiers on the last stage, registered under `head_name`."""

    def __init__(
        self,
        spec: NetworkSpec,
        backbone: Backbone,
        *,
        head_name: str,
        dilations: Sequence[int],
        summed_branches: int,
    ) -> None:
        super().__init__(spec, backbone)
        self.head_name = head_name
        head = SummedHead(backbone.channels[-1], spec.num_classes, dilations, summed_branches)
        self.add_module(head_name, head)
        self.feature_channels = backbone.channels[-1]

    def decode(self, features: Sequence[Tensor]) -> SegmentationOutput:
        head = self.run_head(self.head_name, features[-1])
        return SegmentationOutput(head.logits, features=head.features)


class DeepLabV3Plus(SegmentationNetwork):
    """DeepLab-V3+: one head on the last stage and on the stage at stride 4, whose logits are at stride 4.

    That stage is `layer1` of the ResNets and `features.3`, 24 channels, of MobileNetV2.
    """

    low_stage = 1  # of every residual backbone

    def __init__(self, spec: NetworkSpec, backbone: Backbone, options: DecoderOptions) -> None:
        super().__init__(spec, backbone)
        low_channels = backbone.channels[self.low_stage]
        self.classifier = DecoderHead(backbone.channels[-1], low_channels, spec.num_classes, options)
        self.feature_channels = options.head_channels

    def decode(self, features: Sequence[Tensor]) -> SegmentationOutput:
        head = self.run_head("classifier", features[-1], features[self.low_stage])
        return SegmentationOutput(head.logits, features=head.features)
