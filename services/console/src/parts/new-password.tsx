// Choosing a password: how long it has to be, and one that nobody guesses.
import { Button, Group, PasswordInput, Stack, Text } from '@mantine/core'
import { IconCheck, IconDice5 } from '@tabler/icons-react'
import { useState } from 'react'

/** Fewest and most characters of a password, as the registry has it. */
export const passwordLength = { least: 12, most: 1000 }

// Without characters that look alike.
const alphabet = 'abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789'

/** A password of five groups of five characters, drawn evenly; about 140 bits. random fills an array with random bytes. */
export function generatePassword(random: (bytes: Uint8Array<ArrayBuffer>) => unknown = (bytes) => crypto.getRandomValues(bytes)): string {
  // Bytes beyond the last whole multiple would favour the first letters.
  const fair = 256 - (256 % alphabet.length)
  let letters = ''
  while (letters.length < 25) {
    const bytes = new Uint8Array(32)
    random(bytes)
    for (const byte of bytes) if (byte < fair) letters += alphabet[byte % alphabet.length]
  }
  return letters.slice(0, 25).replace(/.{5}(?=.)/g, '$&-')
}

/** What is wrong with a new password, or undefined. */
export function passwordProblem(password: string): string | undefined {
  const length = [...password].length
  if (length < passwordLength.least) {
    const missing = passwordLength.least - length
    return `Too short: ${missing} more ${missing === 1 ? 'character' : 'characters'}, at least ${passwordLength.least} in all`
  }
  if (length > passwordLength.most) return `Too long: at most ${passwordLength.most} characters`
  return undefined
}

type Props = {
  label: string
  name: string
  value: string
  onChange: (value: string) => void
  error?: string
  /** Offers to make one, which is then shown. */
  generate?: boolean
  autoFocus?: boolean
}

/** A new password, with its rule below and, if asked for, a button that makes one. */
export function NewPassword({ label, name, value, onChange, error, generate, autoFocus }: Props) {
  const [visible, setVisible] = useState(false)
  const problem = passwordProblem(value)
  // An error beside the field says the same.
  const hint = value !== '' && !error
  return (
    <Stack gap={6}>
      <PasswordInput
        label={label}
        name={name}
        autoComplete="new-password"
        required
        data-autofocus={autoFocus || undefined}
        value={value}
        onChange={(e) => onChange(e.currentTarget.value)}
        error={error}
        visible={visible}
        onVisibilityChange={setVisible}
        description={`At least ${passwordLength.least} characters. Length is what counts: a few words are better than one with odd signs.`}
        visibilityToggleButtonProps={{ 'aria-label': 'Show or hide the password', size: 'md' }}
      />
      {(generate || hint) && (
        <Group gap="sm" mih={24}>
          {generate && (
            <Button
              size="compact-sm"
              variant="default"
              leftSection={<IconDice5 size={16} aria-hidden />}
              onClick={() => {
                onChange(generatePassword())
                setVisible(true)
              }}
            >
              Generate one
            </Button>
          )}
          {hint && (
            <Group gap={4}>
              {!problem && <IconCheck size={16} aria-hidden />}
              <Text size="sm">{problem ?? 'Long enough'}</Text>
            </Group>
          )}
        </Group>
      )}
    </Stack>
  )
}
