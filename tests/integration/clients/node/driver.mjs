// The loop of a driver in JavaScript: the commands are those of ../driver.py.

import { createInterface } from 'node:readline'

export class Unsupported extends Error {}

export const b64 = (value) => (value === null || value === undefined ? null : Buffer.from(value).toString('base64'))
export const raw = (text) => (text === null || text === undefined ? null : Buffer.from(text, 'base64'))
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

export function within (ms, promise, what) {
  let timer
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), ms) })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// What a member's callbacks brought, until poll asks for it.
export class Inbox {
  messages = []
  assigned = []

  async poll ({ timeout_ms, count }) {
    const end = Date.now() + timeout_ms
    while (this.messages.length < count && Date.now() < end) await sleep(20)
    return { messages: this.messages.splice(0, count), assigned: [...this.assigned].sort((a, b) => a - b) }
  }
}

function text (error) {
  const causes = [error, error.cause, ...(error.errors ?? []), ...(error.errors ?? []).flatMap((e) => e.errors ?? [])]
  return causes.filter(Boolean).map((e) => `${e.name}: ${e.type ?? e.code ?? e.apiId ?? ''} ${e.message}`).join(' / ')
}

export async function serve (make) {
  const client = make(process.argv[2])
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...command } = JSON.parse(line)
    let answer
    try {
      if (!client[name]) throw new Unsupported('the client has no such call')
      answer = (await client[name](command)) ?? {}
    } catch (error) {
      answer = error instanceof Unsupported ? { unsupported: error.message } : { error: text(error) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  process.exit(0)
}
