/** An error of Slackwater. Switch on `code`, which is stable; `message` is for people. */
export declare class SlackwaterError extends Error {
  readonly code: string
  /** The relayer's explanation, where it was the relayer that refused. */
  readonly problem?: import('./slackwater.js').Problem
  /** Whether the same call may succeed later, unchanged. Absent where nothing was called. */
  readonly isRetryable?: boolean
  /** Whether the relayer may have done it all the same. Absent where nothing was called. */
  readonly isAmbiguous?: boolean
  constructor(code: string, message: string, options?: ErrorOptions)
}
/** JSON of a value; a bigint becomes its decimal digits. `undefined` where JSON has nothing. */
export declare function encode(value: unknown): string | undefined
/** The value of a JSON text that the module wrote. */
export declare function decode(text: string): unknown
/** The error that the module throws. */
export declare function failure(code: string, message: string, details?: string): SlackwaterError
