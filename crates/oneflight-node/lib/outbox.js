'use strict'
// `idem.outbox`: what an operator decides about messages.

const args = require('./arguments.js')
const { fromFailure } = require('./errors.js')
const native = require('./native.js')

/** Makes it of an open store. `begin` checks that it is open, and `track` has its end wait. */
function outbox(handle, begin, track) {
  const ask = async (operation, ...given) => {
    begin()
    const answer = await track(operation(handle, ...given))
    if (answer.failure) throw fromFailure(answer.failure)
    return answer
  }
  return {
    async deadLetters(options) {
      const { limit = 100, after } = args.known(args.object(options, 'the options'), ['limit', 'after'], 'the options')
      return (await ask(native.deadLetters, args.count(limit, 'limit'), after === undefined ? after : id(after))).letters
    },

    async redrive(letter) {
      return (await ask(native.redrive, id(letter))).count === 1
    },

    async cancel(message) {
      return (await ask(native.cancel, id(message))).count === 1
    }
  }
}

function id(value) {
  if (typeof value === 'string') return value
  throw args.invalid(`the id is ${args.what(value)}; give the \`id\` of a message, which is a string`)
}

module.exports = { outbox }
