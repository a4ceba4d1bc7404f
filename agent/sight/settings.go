package sight

import "time"

// SettingsBroken says that the settings in the file are not in force, because they are faulty or missing.
type SettingsBroken struct {
	File  string `json:"file"`
	Fault string `json:"fault"`
	// Copy is the file with the settings that are in force instead, Kept when it was made.
	Copy string    `json:"copy"`
	Kept time.Time `json:"kept"`
}
