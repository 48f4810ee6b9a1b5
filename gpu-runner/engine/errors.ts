/** Reports that a model refused to load or to run: the model's or the input's fault, told to the buyer. */
export class ModelError extends Error {
  override name = 'ModelError'
}

/** Reports that a run took longer than allowed; the process that ran it was killed. */
export class RunDeadlineError extends Error {
  override name = 'RunDeadlineError'
}

/** Reports that an executor process died under a run, through no fault the model admits to. */
export class ExecutorDiedError extends Error {
  override name = 'ExecutorDiedError'
}

/** Reports that an executor process ended while a request lay ready for it: whatever ended it was another's doing. */
export class NotBegunError extends Error {
  override name = 'NotBegunError'
}

/** Reports that no executor process starts: the installation's fault, to be tried again. */
export class NoExecutorError extends Error {
  override name = 'NoExecutorError'
}
