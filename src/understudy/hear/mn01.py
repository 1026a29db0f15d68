"""HEAR module of EfficientAT mn01, see `understudy.teachers.hear`."""

from understudy.teachers import hear

load_model, get_scene_embeddings, get_timestamp_embeddings = hear.module("mn01")
