"""The model that is trained: a very small Sam2VideoModel, and its inference path on a batch of objects."""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from nano_data import IMG
from torch import nn
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import NO_OBJ_SCORE, get_1d_sine_pe

_max_pool2d = F.max_pool2d


def _plain_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    scores = torch.matmul(query * (scale or query.shape[-1] ** -0.5), key.transpose(-1, -2))
    return torch.matmul(scores.softmax(-1).to(value.dtype), value)


def _float32_max_pool(x, *args, **options):
    return _max_pool2d(x.float(), *args, **options).to(x.dtype)


if not torch.cuda.is_available():  # also for bfloat16 on a CPU: attention without a fused kernel, pooling in float32
    F.scaled_dot_product_attention, F.max_pool2d = _plain_attention, _float32_max_pool


def make_config():
    """Return the configuration, for images of IMG pixels."""
    backbone = Sam2HieraDetConfig(
        hidden_size=32,
        num_attention_heads=1,
        image_size=[IMG, IMG],
        blocks_per_stage=[1, 2, 5, 1],
        embed_dim_per_stage=[32, 64, 128, 256],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[5, 7],
        window_positional_embedding_background_size=[7, 7],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[256, 128, 64, 32],
        backbone_feature_sizes=[[IMG // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=256,
    )
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(image_size=IMG),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(mlp_dim=512),
        image_size=IMG,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=512,
        memory_attention_rope_feat_sizes=[IMG // 16] * 2,
        memory_fuser_intermediate_dim=256,
        memory_fuser_layer_scale_init_value=0.1,
    )


@torch.no_grad()
def make_model(seed=0):
    """Return a new model in eval mode.

    It is trained in that mode: only dropout and the choice of masks by stability depend on it, and training should
    take the path of inference.
    """
    torch.manual_seed(seed)
    model = Sam2VideoModel(make_config())
    for module in model.modules():  # transformers' N(0, 0.02) everywhere starts slowly at these widths
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1 if "no_mask" in name else 0.5)
        # the decoder's cross-attention starts by similar positions, the memory attention at the same place
        if name.startswith("mask_decoder") and name.endswith(("token_to_image", "image_to_token")):
            module.k_proj.weight.copy_(module.q_proj.weight)
        if name.endswith("cross_attn_image") and name.startswith("memory_attention"):
            for projection in (module.q_proj, module.k_proj):
                projection.bias.fill_(0.45)
                projection.weight.mul_(0.5)
    model.mask_downsample.weight.fill_(20 / 16)
    model.mask_downsample.bias.fill_(-10.0)
    score = model.mask_decoder.pred_obj_score_head.proj_out
    score.weight.mul_(0.2)
    small = ("no_memory", "memory_temporal", "no_object_pointer", "occlusion_spatial", "backbone.pos_embed")
    for name, parameter in model.named_parameters():
        if any(part in name for part in small):
            nn.init.trunc_normal_(parameter, std=0.02)
        if name.endswith(("memory_fuser.layers.0.scale", "memory_fuser.layers.1.scale")):
            parameter.fill_(0.1)
    codes = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.copy_(codes)
    score.bias.fill_(2.0)
    return model.eval()


def _fast_attention(self, hidden_states, **_):
    """Compute Sam2MultiScaleAttention without its unused softmax(qkᵀ) over heads."""
    batch, height, width, _ = hidden_states.shape
    heads = self.num_attention_heads
    query, key, value = self.qkv(hidden_states).reshape(batch, height * width, 3, heads, -1).unbind(2)
    if self.query_stride:
        stride = tuple(self.query_stride)
        query = query.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        query = F.max_pool2d(query, stride, stride).permute(0, 2, 3, 1)
        height, width = query.shape[1:3]
        query = query.reshape(batch, height * width, heads, -1)
    by_head = (x.transpose(1, 2) for x in (query, key, value))
    attended = F.scaled_dot_product_attention(*by_head, scale=self.scale)
    return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1))


def _cached_position(self, shape, device, dtype, mask=None):
    """Compute a position code once per size, for a batch of one; it is broadcast where it is used."""
    key = (tuple(shape[-2:]), str(device))
    if key not in self._codes:
        code = type(self).forward(self, torch.Size((1, *shape[1:])), device, torch.float32)
        self._codes[key] = code.clone()
    return self._codes[key]


def fast_patch(model):
    """Replace slow parts of a model by quicker ones with the same results."""
    for module in model.modules():
        kind = type(module).__name__
        if kind == "Sam2MultiScaleAttention":
            module.forward = types.MethodType(_fast_attention, module)
        elif kind in ("Sam2SinePositionEmbedding", "Sam2VideoPositionEmbeddingSine"):
            module._codes = {}
            module.forward = types.MethodType(_cached_position, module)
    return model


def upsample(logits):
    """Bring logits [O,n,h,w] to the image's size."""
    return F.interpolate(logits, (IMG, IMG), mode="bilinear", align_corners=False)


class Net:
    """The inference path for a batch of O objects, one a row, through transformers' own modules."""

    def __init__(self, model):
        self.model = model

    def encode(self, pixels):
        """Encode pixels [n,3,H,W]: two high-resolution levels, features [n,256,h,h], their position code."""
        model, decoder = self.model, self.model.mask_decoder
        level_0, level_1, features, *_ = model.vision_encoder(pixels, return_dict=True).fpn_hidden_states
        position = model.vision_encoder.neck.position_encoding(features.shape, features.device, torch.float32)
        return decoder.conv_s0(level_0), decoder.conv_s1(level_1), features, position[:1]

    def _float32(self, function, *args):
        with torch.autocast(self.model.device.type, enabled=False):
            return function(*args)

    def prompt(self, points, labels, mask=None):
        """Encode points [O,P,2] and labels [O,P], and logits [O,1,4h,4h] as a dense prompt."""
        mask = None if mask is None else mask.float()
        return self._float32(self.model.prompt_encoder, points.float()[:, None], labels[:, None], None, mask)

    def no_prompt(self, count, mask=None):
        """Encode no points."""
        device = self.model.device
        points = torch.zeros(count, 1, 2, device=device)
        return self.prompt(points, -torch.ones(count, 1, dtype=torch.int32, device=device), mask)

    def decode(self, features, high_res_0, high_res_1, sparse, dense):
        """Compute Sam2VideoMaskDecoder.forward, but return all four masks [O,4,4h,4h], with IoUs, tokens and score."""
        decoder = self.model.mask_decoder
        count, channels, height, width = features.shape
        position = self._float32(self.model.get_image_wide_positional_embeddings).expand(count, -1, -1, -1)
        tokens = [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        tokens = torch.cat(tokens, 0)[None, None].expand(count, 1, -1, -1)
        queries, image = decoder.transformer(
            point_embeddings=torch.cat([tokens, sparse], 2),
            image_embeddings=features + dense,
            image_positional_embeddings=position,
            attention_similarity=None,
        )
        mask_tokens = queries[:, :, 2 : 2 + decoder.num_mask_tokens]
        x = image.transpose(2, 3).reshape(count, channels, height, width)
        x = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(x) + high_res_1))
        x = decoder.activation(decoder.upscale_conv2(x) + high_res_0)
        heads = decoder.output_hypernetworks_mlps
        weights = torch.stack([heads[i](mask_tokens[:, 0, i]) for i in range(decoder.num_mask_tokens)], 1)
        masks = (weights @ x.flatten(2)).view(count, -1, *x.shape[-2:])
        return {
            "masks": masks.float(),
            "iou": decoder.iou_prediction_head(queries[:, 0, 1]).float(),
            "token": mask_tokens[:, 0],
            "score": decoder.pred_obj_score_head(queries[:, 0, 0]).float(),
        }

    def select(self, decoded, multimask, score=None):
        """Return what inference keeps: low- and high-resolution logits, pointer and score, which may be given."""
        decoder, token = self.model.mask_decoder, decoded["token"][:, 0]
        masks = decoded["masks"]
        if multimask:
            rows = torch.arange(len(masks), device=masks.device)
            best = decoded["iou"][:, 1:].argmax(1) + 1
            low, token = masks[rows, best][:, None], decoded["token"][rows, best]
        elif decoder.dynamic_multimask_via_stability:
            low = decoder._dynamic_multimask_via_stability(masks[:, None], decoded["iou"][:, None])[0][:, 0]
        else:
            low = masks[:, :1]
        score = decoded["score"] if score is None else score
        present = score > 0
        low = torch.where(present[:, :, None, None], low, NO_OBJ_SCORE)
        share = present.float()
        pointer = share * self.model.object_pointer_proj(token) + (1 - share) * self.model.no_object_pointer
        return {"low": low, "high": upsample(low), "pointer": pointer.float(), "score": score}

    def mask_as_output(self, features, high_res_0, high_res_1, masks):
        """Take true masks as the output, as _use_mask_as_output does: what was decoded, and what is kept."""
        masks = masks[:, None].float()
        logits = masks * 20 - 10
        dense = self._float32(self.model.mask_downsample, masks)
        decoded = self.decode(features, high_res_0, high_res_1, *self.no_prompt(len(masks), dense))
        present = masks.flatten(1).any(1, keepdim=True).float()
        pointer = self.select(decoded, True)["pointer"]
        pointer = present * pointer + (1 - present) * self.model.no_object_pointer
        low = F.interpolate(logits, (IMG // 4, IMG // 4), mode="bilinear", align_corners=False, antialias=True)
        return decoded, {"low": low, "high": logits, "pointer": pointer, "score": 20 * present - 10}

    def memory(self, features, kept, prompted):
        """Encode the memory of features [O,256,h,h]: tokens and position codes."""
        tokens = features.flatten(2).permute(2, 0, 1)
        memory, code = self.model._encode_new_memory(tokens, kept["high"], kept["score"][:, None], prompted)
        return memory, code[:, :1].float()

    def condition(self, features, position, bank, t, max_pointers=16, time_scale=1.0):
        """Let the features of frame t attend to the bank's memories, with frame 0 as the conditioning frame."""
        model = self.model
        count, channels, height, width = features.shape
        temporal = model.memory_temporal_positional_encoding
        recent = [(k, bank[t - k]) for k in range(model.num_maskmem - 1, 0, -1) if t - k in bank and t != k]
        memory = [entry["memory"] for entry in (bank[0], *(entry for _, entry in recent))]
        codes = [bank[0]["code"] + temporal[-1], *(entry["code"] + temporal[k - 1] for k, entry in recent)]
        ages = [t, *(k for k in range(1, max_pointers) if t - k in bank and t != k)]
        pointers = torch.stack([bank[t - age]["pointer"] for age in ages], 0)
        ages = [age * time_scale for age in ages]

        def temporal_code():
            age = torch.tensor(ages, device=features.device, dtype=torch.float32)
            code = get_1d_sine_pe(age / float(max_pointers - 1), dim=channels)
            return model.temporal_positional_encoding_projection_layer(code)

        splits = channels // model.mem_dim
        pointer_codes = self._float32(temporal_code)[:, None].repeat_interleave(splits, dim=0)
        pointers = pointers.reshape(-1, count, splits, model.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
        attended = model.memory_attention(
            current_vision_features=features.flatten(2).permute(2, 0, 1),
            current_vision_position_embeddings=position.float().flatten(2).permute(2, 0, 1),
            memory=torch.cat([*(x.to(pointers.dtype) for x in memory), pointers], 0),
            memory_posision_embeddings=torch.cat([*codes, pointer_codes], 0),
            num_object_pointer_tokens=pointers.shape[0],
        )
        attended = attended.reshape(count, height * width, channels)  # transformers returns [1,O,HW,C]
        return attended.transpose(1, 2).reshape(count, channels, height, width)
