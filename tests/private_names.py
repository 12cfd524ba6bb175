"""Every private name of another library that the package uses, where it is defined, and the reason.

``tests/test_private_names.py`` checks that the list is complete, that each entry is used, and that the installed
releases still define it.
"""

from __future__ import annotations

from typing import NamedTuple


class Private(NamedTuple):
    """A name with a leading underscore that other libraries do not promise to keep.

    Attributes:
        name: The name.
        holders: The classes and modules that define it, as ``"module:Class"`` or ``"module"``. Those of
            ``pytorch_lightning`` and ``lightning_fabric`` stand for the same code in ``lightning`` too.
        reason: What it is used for, so that "which <file> uses to <reason>" is a sentence.

    """

    name: str
    holders: tuple[str, ...]
    reason: str


_CALL = "pytorch_lightning.trainer.call"
_OPTIMIZER = "pytorch_lightning.core.optimizer"
_LOOPS = "pytorch_lightning.loops"
_FIT = f"{_LOOPS}.fit_loop:_FitLoop"
_TRAINING_EPOCH = f"{_LOOPS}.training_epoch_loop:_TrainingEpochLoop"
_EVALUATION = f"{_LOOPS}.evaluation_loop:_EvaluationLoop"
_PREDICTION = f"{_LOOPS}.prediction_loop:_PredictionLoop"
_TRAINER = "pytorch_lightning.trainer.trainer:Trainer"
_CONNECTORS = "pytorch_lightning.trainer.connectors"
_LOGGED = f"{_CONNECTORS}.logger_connector.logger_connector:_LoggerConnector"
_FABRIC_DATA = "lightning_fabric.utilities.data"
_HUGGING_FACE = "transformers.models"
_MODULE = "torch.nn.modules.module:Module"

PRIVATE = (
    # Loops of Lightning and their loaders
    Private("_should_check_val_epoch", (_TRAINING_EPOCH,), "know whether the loaders of the validation are shown"),
    Private("_data_source", (_FIT, _EVALUATION, _PREDICTION), "read and replace where a loop gets its loaders from"),
    Private("_combined_loader", (_FIT, _EVALUATION, _PREDICTION), "read the loaders that a loop has built, and reset"),
    Private("_data_fetcher", (_FIT, _EVALUATION, _PREDICTION), "draw batches, and to end the workers of a rehearsal"),
    Private("_DataLoaderIterDataFetcher", (f"{_LOOPS}.fetchers",), "refuse a step that takes `dataloader_iter`"),
    Private("_set_sampler_epoch", (f"{_LOOPS}.fit_loop",), "shuffle each pass of a rehearsal as `fit` does"),
    Private("_batches_that_stepped", (_TRAINING_EPOCH,), "start a rehearsal at the step of the training"),
    Private("_broadcast_sigterm_tensor", (_TRAINING_EPOCH,), "let each process step without the others"),
    Private("_module_mode", (_EVALUATION,), "restore train and eval modes after one validation batch"),
    Private("_evaluation_step", (_EVALUATION,), "run one validation or test batch"),
    Private("_predict_step", (_PREDICTION,), "run one prediction batch"),
    Private("_trainer_fn", (_EVALUATION,), "build a second evaluation loop with the same arguments"),
    Private("_stage", (_EVALUATION,), "build a second evaluation loop with the same arguments"),
    Private("_mode", ("pytorch_lightning.utilities.combined_loader:CombinedLoader",), "copy a CombinedLoader"),
    Private("_request_dataloader", (f"{_CONNECTORS}.data_connector",), "call the loader hook as `fit` does"),
    Private("_IndexBatchSamplerWrapper", ("pytorch_lightning.overrides.distributed",), "recognise its batch sampler"),
    Private("__pl_saved_arg_names", (_FABRIC_DATA,), "let Lightning rebuild a resized loader"),
    Private("__pl_saved_args", (_FABRIC_DATA,), "let Lightning rebuild a resized loader"),
    Private("__pl_saved_kwargs", (_FABRIC_DATA,), "let Lightning rebuild a resized loader"),
    Private("__pl_saved_default_kwargs", (_FABRIC_DATA,), "let Lightning rebuild a resized loader"),
    # The Trainer of Lightning
    Private("_loggers", (_TRAINER,), "replace the loggers during a rehearsal or a second pass"),
    Private("_results", (_TRAINER,), "mute `self.log` in a second pass"),
    Private("_logger_connector", (_TRAINER,), "collect the values that a rehearsal logs apart from those of the user"),
    Private(
        "_callback_metrics",
        (f"{_CONNECTORS}.logger_connector.logger_connector:_LoggerConnector",),
        "show a rehearsal what was logged before it",
    ),
    Private(
        "_logged_metrics",
        (f"{_CONNECTORS}.logger_connector.logger_connector:_LoggerConnector",),
        "show a rehearsal what was logged before it",
    ),
    Private(
        "_progress_bar_metrics",
        (f"{_CONNECTORS}.logger_connector.logger_connector:_LoggerConnector",),
        "show a rehearsal what was logged before it",
    ),
    Private("_max_batches", (_EVALUATION,), "show a rehearsal how many batches a validation has"),
    Private("_data_connector", (_TRAINER,), "undo the setup of a `fit` that only rehearsed"),
    Private("_callback_connector", (_TRAINER,), "undo the setup of a `fit` that only rehearsed"),
    Private("_signal_connector", (_TRAINER,), "undo the setup of a `fit` that only rehearsed"),
    Private("_checkpoint_connector", (_TRAINER,), "see whether a run is resumed"),
    Private(
        "_loaded_checkpoint",
        (f"{_CONNECTORS}.checkpoint_connector:_CheckpointConnector",),
        "see whether a run is resumed",
    ),
    Private(
        "_current_fx",
        (f"{_CONNECTORS}.logger_connector.logger_connector:_LoggerConnector",),
        "restore the hook that is running after a second pass",
    ),
    Private("_call_callback_hooks", (_CALL,), "call the hooks before the first batch"),
    Private("_call_lightning_module_hook", (_CALL,), "call the hooks before the first batch"),
    Private("_TunerExitException", ("pytorch_lightning.utilities.exceptions",), "leave `fit` before the training"),
    Private(
        "_start_method",
        ("pytorch_lightning.strategies.launchers.multiprocessing:_MultiProcessingLauncher",),
        "name how a Trainer starts its own processes",
    ),
    Private(
        "_MultiProcessingLauncher",
        ("pytorch_lightning.strategies.launchers.multiprocessing",),
        "refuse a Trainer that starts its own processes",
    ),
    # Optimizers and hyperparameters of Lightning
    Private("_lightning_optimizers", ("pytorch_lightning.strategies.strategy:Strategy",), "include them in a snapshot"),
    Private("_MockOptimizer", (_OPTIMIZER,), "refuse a module without an optimizer"),
    Private(
        "_every_n_train_steps",
        ("pytorch_lightning.callbacks.model_checkpoint:ModelCheckpoint",),
        "see after how many steps a checkpoint is saved",
    ),
    Private("_init_optimizers_and_lr_schedulers", (_OPTIMIZER,), "build optimizers as `fit` does"),
    Private("_optimizers_to_device", ("pytorch_lightning.strategies.strategy",), "move the state of new optimizers"),
    Private(
        "_metric_attributes",
        ("pytorch_lightning.core.module:LightningModule",),
        "leave out what `log` writes into the module",
    ),
    Private("_current_fx_name", ("pytorch_lightning.core.module:LightningModule",), "see whether `fit` has begun"),
    Private(
        "_hparams_initial",
        ("pytorch_lightning.utilities.parsing",),
        "write a found value into the hyperparameters that are logged",
    ),
    Private(
        "_log_hyperparams",
        ("pytorch_lightning.core.mixins.hparams_mixin:HyperparametersMixin",),
        "see whether the user lets Lightning log the hyperparameters",
    ),
    # Modules and autograd of torch
    Private("_NormBase", ("torch.nn.modules.batchnorm",), "recognise batch and instance norm"),
    Private("_BatchNorm", ("torch.nn.modules.batchnorm",), "recognise batch norm"),
    Private("_ConvNd", ("torch.nn.modules.conv",), "recognise convolutions"),
    Private("_forward_hooks", (_MODULE,), "leave the hooks of a model out of its copy"),
    Private("_forward_pre_hooks", (_MODULE,), "leave the hooks of a model out of its copy"),
    Private("_backward_hooks", (_MODULE, "torch:Tensor"), "leave hooks out of a copy, and to remove those of a trial"),
    Private("_backward_pre_hooks", (_MODULE,), "leave the hooks of a model out of its copy"),
    Private("_post_accumulate_grad_hooks", ("torch:Tensor",), "remove the hooks of a trial `configure_optimizers`"),
    Private("_version", ("torch:Tensor",), "see whether a tensor was written in place"),
    Private("_base", ("torch:Tensor",), "see whether a tensor is a view of a part of a graph"),
    Private("_C", ("torch",), "import `DisableTorchFunctionSubclass`, which torch documents"),
    # Kernels of torch over many tensors
    Private("_foreach_norm", ("torch",), "compute the norms of many tensors in one kernel"),
    Private("_foreach_mul_", ("torch",), "scale many tensors in one kernel"),
    Private("_foreach_abs_", ("torch",), "compute the absolute values of many tensors in one kernel"),
    Private("_foreach_add_", ("torch",), "add to many tensors in one kernel"),
    Private("_foreach_copy_", ("torch",), "copy many tensors in one kernel"),
    Private("_foreach_lerp_", ("torch",), "move many tensors towards others in one kernel"),
    Private("_amp_foreach_non_finite_check_and_unscale_", ("torch",), "look for NaN in many tensors in one kernel"),
    Private("_utils", ("torch",), "import `_flatten_dense_tensors`"),
    Private("_flatten_dense_tensors", ("torch._utils",), "compute one norm of many small tensors"),
    Private("_offset", ("pytorch_lightning.callbacks.timer:Timer",), "count a search as time of the training"),
    # Data, trees and schedulers of torch
    Private("_pytree", ("torch.utils",), "visit the tensors of nested containers"),
    Private("_iterator", ("torch.utils.data:DataLoader",), "copy a loader without its running iterator"),
    Private("_last_lr", ("torch.optim.lr_scheduler:LRScheduler",), "scale the learning rates that a scheduler keeps"),
    Private("_step_count", ("torch.optim.lr_scheduler:LRScheduler",), "compute how far SWALR has annealed"),
    Private("_schedulers", ("torch.optim.lr_scheduler:SequentialLR",), "simulate a long sequence of schedulers"),
    Private("_milestones", ("torch.optim.lr_scheduler:SequentialLR",), "simulate a long sequence of schedulers"),
    Private("_get_file_writer", ("torch.utils.tensorboard:SummaryWriter",), "write the HParams tab after a `fit`"),
    # Models of Hugging Face
    Private("_no_weight_decay", ("mamba_ssm.modules.mamba_simple",), "leave parameters without weight decay"),
    Private(
        "_get_feature_vector_attention_mask",
        (
            f"{_HUGGING_FACE}.wav2vec2:Wav2Vec2Model",
            f"{_HUGGING_FACE}.hubert:HubertModel",
            f"{_HUGGING_FACE}.wavlm:WavLMModel",
        ),
        "pool the frames of speech that are no padding",
    ),
    Private(
        "_get_feat_extract_output_lengths",
        (f"{_HUGGING_FACE}.whisper.modeling_whisper:WhisperPreTrainedModel",),
        "pool the frames of speech that are no padding",
    ),
    # Datasets of torchvision
    Private("_labels", ("torchvision.datasets:Flowers102",), "read the labels of torchvision's datasets"),
    Private("_samples", ("torchvision.datasets:GTSRB",), "read the labels of torchvision's datasets"),
    Private("_flat_character_images", ("torchvision.datasets:Omniglot",), "read the labels of Omniglot"),
)
