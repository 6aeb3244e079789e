// What the module needs from JavaScript: values in and out as JSON, and errors with codes.

/** An error of Slackwater. Switch on `code`, which is stable; `message` is for people. */
export class SlackwaterError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(code, message, options) {
    super(message, options)
    this.name = 'SlackwaterError'
    this.code = code
  }
}

/** JSON of a value; a bigint becomes its decimal digits. `undefined` where JSON has nothing. */
export const encode = (value) =>
  JSON.stringify(value, (_, member) => (typeof member === 'bigint' ? member.toString() : member))

/** The value of a JSON text that the module wrote. */
export const decode = (text) => JSON.parse(text)

/** The error that the module throws. */
export const failure = (code, message, details) =>
  Object.assign(new SlackwaterError(code, message), details === undefined ? undefined : JSON.parse(details))
