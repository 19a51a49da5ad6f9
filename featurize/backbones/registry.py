"""Table of the backbones: every network of keras.applications, and EfficientNet-Lite0.

Sources: file names, URLs and hashes are from the modules of keras.applications. ImageNet top-1 accuracies are
from the table at https://keras.io/api/applications; for the MobileNetV3 networks from their docstring, for
EfficientNet-Lite0 from the TensorFlow blog. Parameters are counted without the top.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from featurize.errors import ConfigError

CONVENTIONS = {
    "caffe": "BGR, minus the ImageNet mean",
    "tf": "RGB, from -1 to 1",
    "torch": "RGB in [0, 1], minus the ImageNet mean, divided by its standard deviation",
    "inside": "RGB in [0, 255], scaled inside the network",
    "lite": "RGB, (x - 127) / 128",
}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen CNN described as data; listing backbones never imports Keras."""

    name: str  # one spelling: command line, store, tests
    factory: str  # "<module>.<function>" in keras.applications; EfficientNet-Lite0: in featurize.backbones
    size: int  # default side of the square input, in pixels
    min_size: int  # smallest side the network accepts
    any_size: bool  # whether sides other than `size` are allowed
    n_features: int  # width after global average pooling
    parameters: int  # without the top
    megabytes: float  # download size: 4 bytes per parameter, accurate to a few percent
    top1: float  # ImageNet accuracy in percent, of the whole network
    convention: str  # key of CONVENTIONS: how preprocess_input scales the pixels
    weights_file: str  # file name in Keras' cache
    weights_url: str  # URL that Keras downloads; "" for packaged weights
    weights_hash: str  # MD5 or SHA-256 (hex) that Keras verifies; "" if Keras has none


_MODULES = {  # module of keras.applications: pixel convention, folder of the weights
    "vgg16": ("caffe", "tensorflow/keras-applications/vgg16"),
    "vgg19": ("caffe", "tensorflow/keras-applications/vgg19"),
    "resnet": ("caffe", "tensorflow/keras-applications/resnet"),
    "resnet_v2": ("tf", "tensorflow/keras-applications/resnet"),
    "inception_v3": ("tf", "tensorflow/keras-applications/inception_v3"),
    "inception_resnet_v2": ("tf", "tensorflow/keras-applications/inception_resnet_v2"),
    "xception": ("tf", "tensorflow/keras-applications/xception"),
    "mobilenet": ("tf", "tensorflow/keras-applications/mobilenet"),
    "mobilenet_v2": ("tf", "tensorflow/keras-applications/mobilenet_v2"),
    "mobilenet_v3": ("inside", "tensorflow/keras-applications/mobilenet_v3"),
    "densenet": ("torch", "tensorflow/keras-applications/densenet"),
    "nasnet": ("tf", "tensorflow/keras-applications/nasnet"),
    "efficientnet": ("inside", "keras-applications"),
    "efficientnet_v2": ("inside", "tensorflow/keras-applications/efficientnet_v2"),
    "convnext": ("inside", "tensorflow/keras-applications/convnext"),
}
_HOST = "https://storage.googleapis.com"
_PUBLISHED_NAMES = {  # name in Keras' cache: different name at the URL
    "nasnet_mobile_no_top.h5": "NASNet-mobile-no-top.h5",
    "nasnet_large_no_top.h5": "NASNet-large-no-top.h5",
}

# name, factory, size, min_size, n_features, parameters, top1, weights_file, weights_hash
# fmt: off
_KERAS = (
    ("vgg16", "vgg16.VGG16", 224, 32, 512, 14_714_688, 71.3,
     "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
    ("vgg19", "vgg19.VGG19", 224, 32, 512, 20_024_384, 71.3,
     "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6"),
    ("resnet50", "resnet.ResNet50", 224, 32, 2048, 23_587_712, 74.9,
     "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"),
    ("resnet101", "resnet.ResNet101", 224, 32, 2048, 42_658_176, 76.4,
     "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "88cf7a10940856eca736dc7b7e228a21"),
    ("resnet152", "resnet.ResNet152", 224, 32, 2048, 58_370_944, 76.6,
     "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    ("resnet50v2", "resnet_v2.ResNet50V2", 224, 32, 2048, 23_564_800, 76.0,
     "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "fac2f116257151a9d068a22e544a4917"),
    ("resnet101v2", "resnet_v2.ResNet101V2", 224, 32, 2048, 42_626_560, 77.2,
     "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "c0ed64b8031c3730f411d2eb4eea35b5"),
    ("resnet152v2", "resnet_v2.ResNet152V2", 224, 32, 2048, 58_331_648, 78.0,
     "resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "ed17cf2e0169df9d443503ef94b23b33"),
    ("inception_v3", "inception_v3.InceptionV3", 299, 75, 2048, 21_802_784, 77.9,
     "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", "bcbd6486424b2319ff4ef7d526e38f63"),
    ("inception_resnet_v2", "inception_resnet_v2.InceptionResNetV2", 299, 75, 1536, 54_336_736, 80.3,
     "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "d19885ff4a710c122648d3b5c3b684e4"),
    ("xception", "xception.Xception", 299, 71, 2048, 20_861_480, 79.0,
     "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97"),
    ("mobilenet", "mobilenet.MobileNet", 224, 32, 1024, 3_228_864, 70.4,
     "mobilenet_1_0_224_tf_no_top.h5", ""),
    ("mobilenet_v2", "mobilenet_v2.MobileNetV2", 224, 32, 1280, 2_257_984, 71.3,
     "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", ""),
    ("mobilenet_v3_small", "mobilenet_v3.MobileNetV3Small", 224, 32, 576, 939_120, 68.1,
     "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "d3e8ec802a04aa4fc771ee12a9a9b836"),
    ("mobilenet_v3_large", "mobilenet_v3.MobileNetV3Large", 224, 32, 960, 2_996_352, 75.6,
     "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", "07fb09a5933dd0c8eaafa16978110389"),
    ("densenet121", "densenet.DenseNet121", 224, 32, 1024, 7_037_504, 75.0,
     "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", "30ee3e1110167f948a6b9946edeeb738"),
    ("densenet169", "densenet.DenseNet169", 224, 32, 1664, 12_642_880, 76.2,
     "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5", "b8c4d4c20dd625c148057b9ff1c1176b"),
    ("densenet201", "densenet.DenseNet201", 224, 32, 1920, 18_321_984, 77.3,
     "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5", "c13680b51ded0fb44dff2d8f86ac8bb1"),
    ("nasnet_mobile", "nasnet.NASNetMobile", 224, 32, 1056, 4_269_716, 74.4,
     "nasnet_mobile_no_top.h5", "1ed92395b5b598bdda52abe5c0dbfd63"),
    ("nasnet_large", "nasnet.NASNetLarge", 331, 32, 4032, 84_916_818, 82.5,
     "nasnet_large_no_top.h5", "d81d89dc07e6e56530c4e77faddd61b5"),
    ("efficientnet_b0", "efficientnet.EfficientNetB0", 224, 32, 1280, 4_049_571, 77.1,
     "efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
    ("efficientnet_b1", "efficientnet.EfficientNetB1", 240, 32, 1280, 6_575_239, 79.1,
     "efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432"),
    ("efficientnet_b2", "efficientnet.EfficientNetB2", 260, 32, 1408, 7_768_569, 80.1,
     "efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    ("efficientnet_b3", "efficientnet.EfficientNetB3", 300, 32, 1536, 10_783_535, 81.6,
     "efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226"),
    ("efficientnet_b4", "efficientnet.EfficientNetB4", 380, 32, 1792, 17_673_823, 82.9,
     "efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    ("efficientnet_b5", "efficientnet.EfficientNetB5", 456, 32, 2048, 28_513_527, 83.6,
     "efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f"),
    ("efficientnet_b6", "efficientnet.EfficientNetB6", 528, 32, 2304, 40_960_143, 84.0,
     "efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743"),
    ("efficientnet_b7", "efficientnet.EfficientNetB7", 600, 32, 2560, 64_097_687, 84.3,
     "efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    ("efficientnet_v2_b0", "efficientnet_v2.EfficientNetV2B0", 224, 32, 1280, 5_919_312, 78.7,
     "efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
    ("efficientnet_v2_b1", "efficientnet_v2.EfficientNetV2B1", 240, 32, 1280, 6_931_124, 79.8,
     "efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"),
    ("efficientnet_v2_b2", "efficientnet_v2.EfficientNetV2B2", 260, 32, 1408, 8_769_374, 80.5,
     "efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"),
    ("efficientnet_v2_b3", "efficientnet_v2.EfficientNetV2B3", 300, 32, 1536, 12_930_622, 82.0,
     "efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"),
    ("efficientnet_v2_s", "efficientnet_v2.EfficientNetV2S", 384, 32, 1280, 20_331_360, 83.9,
     "efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"),
    ("efficientnet_v2_m", "efficientnet_v2.EfficientNetV2M", 480, 32, 1280, 53_150_388, 85.3,
     "efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342"),
    ("efficientnet_v2_l", "efficientnet_v2.EfficientNetV2L", 480, 32, 1280, 117_746_848, 85.7,
     "efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615"),
    ("convnext_tiny", "convnext.ConvNeXtTiny", 224, 32, 768, 27_820_128, 81.3,
     "convnext_tiny_notop.h5", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    ("convnext_small", "convnext.ConvNeXtSmall", 224, 32, 768, 49_454_688, 82.3,
     "convnext_small_notop.h5", "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    ("convnext_base", "convnext.ConvNeXtBase", 224, 32, 1024, 87_566_464, 85.3,
     "convnext_base_notop.h5", "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
    ("convnext_large", "convnext.ConvNeXtLarge", 224, 32, 1536, 196_230_336, 86.3,
     "convnext_large_notop.h5", "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
    ("convnext_xlarge", "convnext.ConvNeXtXLarge", 224, 32, 2048, 348_147_968, 86.7,
     "convnext_xlarge_notop.h5", "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05"),
)
# fmt: on

_LITE0 = Backbone(
    name="efficientnet_lite0",
    factory="lite0.lite0_network",
    size=224,
    min_size=32,
    any_size=True,
    n_features=1280,
    parameters=3_413_024,
    megabytes=18.8,  # the packaged file, with the top
    top1=75.1,
    convention="lite",
    weights_file="efficientnet-lite0-57934424.pth",
    weights_url="",
    weights_hash="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def _keras_backbone(
    name: str,
    factory: str,
    size: int,
    min_size: int,
    n_features: int,
    parameters: int,
    top1: float,
    file: str,
    weights_hash: str,
) -> Backbone:
    convention, folder = _MODULES[factory.split(".")[0]]
    return Backbone(
        name=name,
        factory=factory,
        size=size,
        min_size=min_size,
        any_size=True,
        n_features=n_features,
        parameters=parameters,
        megabytes=round(parameters * 4 / 1e6, 1),
        top1=top1,
        convention=convention,
        weights_file=file,
        weights_url=f"{_HOST}/{folder}/{_PUBLISHED_NAMES.get(file, file)}",
        weights_hash=weights_hash,
    )


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {backbone.name: backbone for backbone in (_LITE0, *(_keras_backbone(*row) for row in _KERAS))}
)


def get_backbone(name: str) -> Backbone:
    """Return the backbone with a given name.

    Raises
    ------
    ConfigError
        If the name is unknown; the message lists similar names.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    plain_names = {known.replace("_", ""): known for known in BACKBONES}
    matches = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), plain_names, n=3)
    hint = f" Did you mean {', '.join(plain_names[match] for match in matches)}?" if matches else ""
    raise ConfigError(f"--backbone {name}: unknown.{hint} List all backbones with: featurize backbones")
