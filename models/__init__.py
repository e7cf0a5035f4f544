from models.resnet import GroupNorm, ResNet18

__all__ = ["GroupNorm", "ResNet18"]
